//! Who leads and who waits, with loom.

mod loomed;
mod models;
