//! Histories of the WAL model drive the real engine: the model draws what happens (puts, metadata, flushes, failed flushes, quiet
//! times, checkpoints step by step, power loss, process crashes, interrupted recoveries), both do it, and each loses at a crash
//! what its own device loses. So the two end in different states, and the engine must keep the model's promises:
//!
//! - (a) a recovered state is a prefix of the history that holds every acknowledged record;
//! - (b) bytes read are those written for that object, unless the bad sector is among them;
//! - (c) corruption is reported only after a fault, and what was acknowledged is cut silently only above every watermark that
//!   sectors other than the bad one hold;
//! - (d) an interrupted or repeated recovery gives the same state;
//! - (e) what was admitted never lacks room, nor does a checkpoint;
//! - (f) an object id names one object for ever.

mod client;
mod world;

pub use world::{Counters, history};
