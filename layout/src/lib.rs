//! Bytes on disk: pure types, no IO, no unsafe. Shared by engine, namespace, fsck, mkfs and inspect.
//!
//! Every structure is little-endian, has its size and offsets asserted at compile time, and is decoded by a function that takes hostile bytes and returns a
//! [`LayoutError`]. `docs/on-disk-format.md` draws them; decision 0001 says why they are as they are.
#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod directory_page;
mod error;
mod ids;
pub mod node;
mod reference;
pub mod segment;
pub mod system_page;

pub use error::LayoutError;
pub use ids::{Hlc, Lsn, Oid};
pub use reference::{Encoding, Reference, ReferenceKind, flags};

/// Bytes of a unit, the granularity of space in a segment.
pub const UNIT: u32 = 512;
/// Bytes of a block of file data, the granularity of checksums and of sharing.
pub const BLOCK: u32 = 4096;
