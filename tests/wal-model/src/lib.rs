//! Block-level model of WAL, data, checkpoint, superblock and recovery (DESIGN 5, 6, 8), explored exhaustively and at random.
//!
//! Reading order: [`format`] (what is on the simulated disk), [`device`] (a volatile cache), [`engine`] (serving),
//! [`recovery`] (a pure function plus a plan of writes), [`world`] (one step at a time, and the oracle), [`explore`]
//! (depth-first and random search, the bug hunt), [`config`] (sizes, budgets, seeded bugs), [`quorum`] (the superblock
//! rules alone, enumerated). The README says what is checked and what is not modelled.

pub mod config;
pub mod device;
pub mod engine;
pub mod explore;
pub mod format;
pub mod quorum;
pub mod rebuild;
pub mod recovery;
pub mod world;
