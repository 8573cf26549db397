//! Executable model of the sharing, space, link and realm rules (DESIGN 3, 7, 8): random histories against an independent
//! oracle of deep values, with crashes, and every rule breakable on purpose.
//!
//! Reading order: [`operation`] (what happens), [`oracle`] with `oracle_apply` (what it means), `objects` (what is stored),
//! `model` (the state), `btree`, `body`, `flags`, `paths`, `links`, `realms` (the tree), `apply` (one function an
//! operation), `checkpoint`, `counts`, `mark`, `recovery` (space and time), `compare`, `checks`, `totals`, `quiesce` (what must
//! hold), [`bugs`], `generator` and [`run`](mod@run) (random histories), [`scripts`] (hand-written ones), and [`history`]: the same
//! histories for driving a real implementation.

#[macro_use]
mod violation;

mod apply;
mod body;
mod btree;
pub mod bugs;
mod checkpoint;
mod checks;
mod collections;
mod compare;
mod counts;
mod flags;
mod generator;
pub mod history;
mod links;
mod mark;
mod model;
mod objects;
pub mod operation;
pub mod oracle;
mod oracle_apply;
mod paths;
mod quiesce;
mod realms;
mod recovery;
mod rng;
pub mod run;
pub mod scripts;
pub mod stats;
mod totals;

pub use bugs::{BUGS, Bug};
pub use history::{History, Profile};
pub use model::Config;
pub use objects::FILE_BLOCKS;
pub use operation::{Name, Operation, Path, Place};
pub use oracle::{OracleDirectory, OracleEntry, OracleFile, OracleRealm, OracleVolume};
pub use run::run;
pub use stats::Stats;
