//! The log on a simulated device: histories with power cuts anywhere, and one test a rule.
//!
//! Replay a seed: `WAL_SEED=<seed> cargo test -p envoyfs-engine wal::tests::crashes`.

mod crashes;
mod devices;
mod harness;
mod line;
mod locals;
mod loss;
mod models;
mod rules;
mod search;
mod speed;
