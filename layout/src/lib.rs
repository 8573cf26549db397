//! Bytes on disk: pure types, no IO, no unsafe. Shared by engine, namespace, fsck, mkfs and inspect.
//!
//! Every structure is little-endian, has its size and offsets asserted at compile time, and is decoded by a function that takes hostile bytes and returns a
//! [`LayoutError`]. `docs/on-disk-format.md` draws them; decision 0001 says why they are as they are.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod batch;
pub mod checksum;
mod client;
mod codec;
pub mod directory_page;
pub mod entry;
mod error;
pub mod fields;
mod ids;
pub mod inode;
pub mod key;
pub mod node;
pub mod operation;
pub mod realm;
mod reference;
pub mod roots;
pub mod segment;
pub mod slice;
pub mod superblock;
pub mod system_page;
pub mod territory;
pub mod totals;
mod varint;
pub mod wal;

pub use attributes::DirectoryAttributes;
pub use client::{CLIENT_TAG_BYTES, ClientTag};
pub use entry::{DirectoryEntry, Entry, LinkEntry};
pub use error::LayoutError;
pub use ids::{Hlc, IdHasher, IdMap, Lsn, Oid};
pub use inode::{Body, Inode, Timestamp, Xattrs};
pub use realm::{RealmEntry, RealmRecord, Retention, SnapshotItem};
pub use reference::{Encoding, Reference, ReferenceKind, flags};
pub use slice::Slice;
pub use territory::{ClientRoots, TerritoryRecord};
pub use totals::Totals;

/// Bytes of a unit, the granularity of space in a segment.
pub const UNIT: u32 = 512;
/// Slots of a segment: one for each unit of the largest container.
pub const SLOTS: u32 = 1 << 16;
/// Bytes of a block of file data, the granularity of checksums and of sharing.
pub const BLOCK: u32 = 4096;
