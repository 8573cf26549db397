//! Segments: a header, objects packed in units of 512 bytes, table parts that say what they are, a footer. A scan of them rebuilds every index.
//!
//! ```text
//! | header (one unit, then zeros to 4096) | objects and table parts ... | footer (last unit) |
//! table part: | header 32 | row 8 to 50 ... | zeros to 512 |
//! ```
//!
//! A row of 4 KiB of data takes 10 to 20 bytes: each says only what the row before it does not let expect.
//!
//! Header and footer are true of one container of one store, so their checksums are seeded with its seed uuid and their position. Table parts are shipped with the
//! objects and are not; the sequence of opening in them tells a part of this life of the container from one of an earlier life.

mod footer;
mod header;
mod row;
mod table;
#[cfg(test)]
mod tests;
mod unit;

pub use footer::{FOOTER_MAGIC, SegmentFooter};
pub use header::{HEADER_MAGIC, SegmentHeader};
pub use row::TableRow;
pub(crate) use row::kind_of;
pub use table::{PART_MAGIC, PartRows, TablePart};
pub use unit::UNIT_BYTES;

use crate::fields::Structure;

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[header::LAYOUT, footer::LAYOUT, table::LAYOUT];
