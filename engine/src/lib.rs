//! Objects, write-ahead log, segments, checkpoints, device IO. Knows no files or directories.
//!
//! A client keeps one persistent data structure of *nodes* (metadata, up to 16 KiB) and *extents* (data, up to [`store::Limits::extent_bytes_max`]): immutable objects that
//! name each other by [`Reference`](envoyfs_layout::Reference). It says what happens in *records* of the log, and now and then publishes a new root. The engine makes both
//! durable, counts who refers to what, and gives back the space of what nobody refers to. The interface is the trait [`store::Store`]; [`Engine`] is it over a [`device`],
//! [`memory::MemoryStore`] a double for tests that recounts everything. `examples/key_value` is a whole client: B+trees, forks, recovery.
//!
//! # Guide
//! **Open.** [`format::format()`] makes a store on a device, [`Engine::open_for`] mounts it for the client of a name, which it belongs to from then on: recovery has run when it returns. Take [`recovered_roots`](store::Store::recovered_roots), read your structure from
//! them, then apply every record of [`take_replay`](store::Store::take_replay), in order, with the same code that a live change uses. Memory = published roots + records since; nothing else is kept.
//!
//! **Change.**
//! 1. [`reserve`](store::Store::reserve) the worst case first, with no lock held: record bytes, data bytes, and how many bytes of nodes the next checkpoint may have to write because of this. It waits for
//!    a checkpoint if that helps, and is the only place that says `NoSpace`. Somebody else must be able to make a checkpoint meanwhile.
//! 2. [`append_data`](store::Store::append_data) starts writing large values and returns at once. Such an object belongs to nothing until a record names it;
//!    [`abandon_data`](store::Store::abandon_data) gives it up: call it when anything after this fails, `append` too, or the object keeps its place until the next mount.
//! 3. Under your own *freeze lock* (shared, or simply a mutex): [`append`](store::Store::append) the record, with the data objects that it names, and change memory. `append` never waits. Because both happen under one
//!    lock, the order of the log is the order in memory, and replay gives what was there. Check everything before: a record is never taken back.
//! 4. [`commit`](store::Store::commit)`(end)` returns when the record and all before it are durable, with the data that they name: data and log are written at the same time, since the record holds the
//!    data's checksums. [`on_durable`](store::Store::on_durable) is the same without waiting. After a crash the log is a prefix of what was appended that contains all that was committed.
//!
//! **End.** [`Engine::close`], after a last checkpoint: the next mount has nothing to replay, and goes on with the numbers that were not handed out. A mount that just ends is safe, but each such mount skips
//! segment numbers, of 2^32: twice as many as the store has containers and 16, at most 16 384.
//!
//! **Births and share times.** Each record gets a clock value, `hlc`. What it creates or changes is *born* at `hlc.birth()`; a node's birth is the newest of its changes and its children, never older than
//! a child's. A fork or snapshot is a second reference to the same root, and its record's `hlc` becomes the *share time* of both sides, kept beside the references. Then an object is *exclusive* on a path
//! when it was born later than every share time on it ([`Hlc::exclusive`](envoyfs_layout::Hlc::exclusive)): nobody else can reach it.
//!
//! **Checkpoint.** One at a time, whenever [`wait_checkpoint`](store::Store::wait_checkpoint) returns a reason; usually a thread of its own.
//! 1. Under the freeze lock (exclusive): [`freeze`](store::Store::freeze), and set aside what was changed so far. From here on changes belong to the next checkpoint.
//! 2. Without it: write new nodes bottom-up with [`append_node`](store::Store::append_node)`(Batch::Frozen, ..)`. A node's bytes are those of [`NodeBuilder`](envoyfs_layout::node::NodeBuilder): items are yours, but every
//!    reference stands in its generic table, which is all that the engine reads of it. The kind of tree is a label.
//! 3. [`publish`](store::Store::publish) the new roots, with [`Changes`](store::Changes). When it returns the log before the freeze is not needed any more. If power fails on the way, the checkpoint before rules, or this one.
//!
//! 4. If anything between `freeze` and `publish` fails, call [`abandon`](store::Store::abandon), and put what was set aside back below what changed since: a freeze that is neither published nor abandoned stops
//!    every writer that waits for a checkpoint. A failed `publish` poisons.
//!
//! **What to say in `Changes`: the batch law in words.** The engine keeps one count an object: how many stored nodes and roots refer to it, where several references from one node count once. At each
//! checkpoint it adds the edges of the nodes and roots that are new and takes away those of the nodes that are *gone*. So the client says which nodes those are:
//! - a stored node that was replaced or removed and is **exclusive** goes into [`gone`](store::Changes::gone) with its edges; it is freed, and whatever it alone referred to loses that edge;
//! - a stored node that was replaced but is **not** exclusive is not mentioned: whoever shares it keeps it and its edges;
//! - ranges of exclusive extents that will not be read again may go into [`freed`](store::Changes::freed) at once; whole extents need nothing, they are freed when their last edge goes.
//!
//! Listing a shared node as gone loses data; leaving out an exclusive one only wastes space. An object whose count falls to zero is freed with all that only it held, a paced amount each checkpoint.
//!
//! **Read.** [`read_node`](store::Store::read_node) and [`read_data`](store::Store::read_data) verify every byte against the checksums in the reference, or beside it. Objects never change, so what was read may be cached for
//! ever. What a checkpoint no longer reaches is gone from the call of [`publish`](store::Store::publish) on, not from its return: reads of it fail ([`StoreError::Damaged`],
//! [`StoreError::BadReference`]), and never give other bytes. So take a [`pin`](store::Store::pin) first, then look up under your lock what to read, then read without it: everything that could be reached when the pin was taken stays readable
//! until it is dropped. Publish with [`publish_and_show`](store::Store::publish_and_show), and take the new roots over in its callback, so that no reader pins the old ones too late. A pin holds dead space back; a store that is full breaks it
//! rather than refuse anybody ([`Pin::is_broken`](store::Pin::is_broken), [`StoreError::PinBroken`]): then start again with a new one. Who reads for minutes walks a *retained* checkpoint instead ([`HistoryPolicy`],
//! [`history`](store::Store::history)), which stays readable until it is dropped.
//!
//! **Failures.** A failed write of the log, or flush, *poisons* the store: reads go on, nothing is acknowledged or published any more, and a new mount recovers. `WouldWait` asks for a
//! checkpoint: any call that would wait for one answers so in a store without threads (tests), and [`number`](store::Store::number) in every store. `Misuse` means that the client broke one of these rules.

mod bound;
mod checkpoint;
mod cleaner;
pub mod device;
mod drops;
mod engine;
mod error;
pub mod format;
mod history;
pub mod hlc;
#[cfg(test)]
mod loomed;
mod mark;
pub mod memory;
pub mod metrics;
mod mutant;
mod pace;
mod queue;
mod recovery;
pub mod repair;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
mod scrub;
pub mod settings;
#[cfg(test)]
#[cfg(feature = "models")]
mod shuttled;
pub mod signature;
pub mod space;
pub mod state;
pub mod store;
pub mod superblock;
mod sync;
#[cfg(test)]
mod tests;
mod unsaved;
pub mod wal;

pub use bound::MemoryBound;
pub use cleaner::{Closed, Occupancy, Use, victim_score};
pub use engine::{Engine, FreeAndReserve, LiveObjects, Options};
pub use error::StoreError;
pub use history::{HistoryPolicy, HistoryRoot};
pub use mark::{MarkOptions, MarkProgress, MarkReport, Uses};
pub use queue::{Portion, ReadQueue};
pub use recovery::CANNOT_BE_WRITTEN;
pub use scrub::{FINDINGS_MAX, ScrubFinding, ScrubOptions, ScrubReport};
pub use settings::Settings;
