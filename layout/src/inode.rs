//! An inode as it is embedded in a directory entry, a link table or the orphan list.
//!
//! ```text
//! | number 8 | generation 4 | mode 4 | uid 4 | gid 4 | nlink 4 | flags 4 | rdev 4 | reserved 4 | size 8 | allocated 8 | share 8 | 4 x {seconds 8, nanoseconds 4} |
//! | xattr count 1 | {name length 1, value length 2, name, value}* | body kind 1 | body |
//! body: 0 none · 1 inline {length 2, CRC32C 4, bytes} · 2 slices {count 1, slices} · 3 tree (one reference)
//! ```

use crate::codec::{Reader, Writer};
use crate::{Hlc, LayoutError, Reference, Slice, checksum};

const STRUCTURE: &str = "inode";

/// Most bytes of a file, or of a symbolic link's target, that lie in the inode.
pub const INLINE_BYTES_MAX: usize = 256;
/// Most bytes of a symbolic link's target.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Most slices that lie in the inode; more make an extents tree.
pub const INLINE_SLICES_MAX: usize = 4;
/// Most bytes of all extended attributes of an inode, encoded (see [`xattr_bytes`]).
pub const XATTR_BYTES_MAX: usize = 1024;
/// Most bytes of a name.
pub const NAME_BYTES_MAX: usize = 255;

/// Extended attributes: name and value, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Seconds and nanoseconds since 1970; nanoseconds are below 1e9 and count forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, 0..1e9.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// From nanoseconds since 1970.
    #[must_use]
    pub fn from_nanoseconds(ns: i64) -> Self {
        Self {
            seconds: ns.div_euclid(1_000_000_000),
            nanoseconds: u32::try_from(ns.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
    pub(crate) fn write(&self, out: &mut Writer) {
        if self.nanoseconds >= 1_000_000_000 {
            out.fail::<()>("nanoseconds", self.nanoseconds as usize);
        }
        out.i64(self.seconds);
        out.u32(self.nanoseconds);
    }
    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let (seconds, nanoseconds) = (from.i64()?, from.u32()?);
        if nanoseconds >= 1_000_000_000 {
            return Err(from.field("nanoseconds", nanoseconds.into()));
        }
        Ok(Self { seconds, nanoseconds })
    }
}

/// Where the contents of a file are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nowhere: empty, or one hole.
    #[default]
    None,
    /// In the inode.
    Inline {
        /// At most [`INLINE_BYTES_MAX`] bytes ([`SYMLINK_BYTES_MAX`] in a symbolic link).
        bytes: Vec<u8>,
        /// Their CRC32C.
        crc: u32,
    },
    /// In at most [`INLINE_SLICES_MAX`] slices, ascending and disjoint, each with its extent.
    Slices(Vec<(Slice, Reference)>),
    /// In the slices of an extents tree.
    Tree {
        /// Its root.
        root: Reference,
        /// Allocated bytes of all its slices.
        bytes: u64,
    },
}

impl Body {
    /// Bytes in the inode, with their checksum.
    #[must_use]
    pub fn inline(bytes: Vec<u8>) -> Self {
        let crc = checksum::crc32c(&bytes);
        Self::Inline { bytes, crc }
    }
    /// Allocated bytes in extents.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        match self {
            Self::None | Self::Inline { .. } => 0,
            Self::Slices(slices) => slices.iter().map(|(slice, _)| slice.stored_bytes()).sum(),
            Self::Tree { bytes, .. } => *bytes,
        }
    }
}

/// An inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    /// Number in its realm, 40 bits, never 0.
    pub number: u64,
    /// (number, generation) is unique over time (INV-16).
    pub generation: u32,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names.
    pub nlink: u32,
    /// Flags (`FS_IOC_GETFLAGS`).
    pub flags: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// HLC of the newest fork of, or into, this place.
    pub share: Hlc,
    /// Access time.
    pub atime: Timestamp,
    /// Time of the last change of contents.
    pub mtime: Timestamp,
    /// Time of the last change of attributes.
    pub ctime: Timestamp,
    /// Time of creation.
    pub btime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Contents.
    pub body: Body,
}

impl Inode {
    /// Where the allocated bytes stand in the encoding.
    const ALLOCATED_AT: usize = 48;

    /// Bytes and the references they need, in order.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<Reference>), LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        let mut references = Vec::new();
        self.write(&mut out, &mut references);
        Ok((out.finish()?, references))
    }
    /// From bytes and references, all of which must be used.
    pub fn decode(bytes: &[u8], references: &[Reference]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, bytes);
        let mut references = References::new(references);
        let inode = Self::read(&mut from, &mut references)?;
        from.end()?;
        references.end(STRUCTURE)?;
        Ok(inode)
    }
    /// Allocated bytes of an encoded inode, without building it.
    pub fn allocated_of(bytes: &[u8]) -> Result<u64, LayoutError> {
        let mut from = Reader::new(STRUCTURE, bytes);
        from.take(Self::ALLOCATED_AT)?;
        from.u64()
    }
    pub(crate) fn write(&self, out: &mut Writer, references: &mut Vec<Reference>) {
        if self.number == 0 {
            out.fail::<()>("number", 0);
        }
        out.u64(self.number);
        for value in [self.generation, self.mode, self.uid, self.gid, self.nlink, self.flags, self.rdev, 0] {
            out.u32(value);
        }
        out.u64(self.size);
        out.u64(self.body.allocated());
        out.hlc(self.share);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.write(out);
        }
        write_xattrs(out, &self.xattrs);
        match &self.body {
            Body::None => out.u8(0),
            Body::Inline { bytes, crc } => {
                out.u8(1);
                out.len16("inline bytes", bytes.len(), inline_bytes_max(self.mode));
                out.u32(*crc);
                out.raw(bytes);
            }
            Body::Slices(slices) => {
                out.u8(2);
                out.len8("slices", slices.len(), INLINE_SLICES_MAX);
                for (slice, reference) in slices {
                    slice.write(out);
                    references.push(*reference);
                }
            }
            Body::Tree { root, .. } => {
                out.u8(3);
                references.push(*root);
            }
        }
    }
    pub(crate) fn read(from: &mut Reader<'_>, references: &mut References<'_>) -> Result<Self, LayoutError> {
        let mut inode = Self { number: from.u64()?, ..Self::default() };
        if inode.number == 0 {
            return Err(from.field("number", 0));
        }
        let fields = [
            &mut inode.generation,
            &mut inode.mode,
            &mut inode.uid,
            &mut inode.gid,
            &mut inode.nlink,
            &mut inode.flags,
            &mut inode.rdev,
        ];
        for field in fields {
            *field = from.u32()?;
        }
        from.zeros(4)?;
        inode.size = from.u64()?;
        let allocated = from.u64()?;
        inode.share = from.hlc()?;
        for time in [&mut inode.atime, &mut inode.mtime, &mut inode.ctime, &mut inode.btime] {
            *time = Timestamp::read(from)?;
        }
        inode.xattrs = read_xattrs(from)?;
        inode.body = read_body(from, references, inline_bytes_max(inode.mode), allocated)?;
        if inode.body.allocated() != allocated {
            return Err(from.field("allocated bytes", allocated));
        }
        Ok(inode)
    }
}

const fn inline_bytes_max(mode: u32) -> usize {
    if mode & mode::TYPE == mode::SYMLINK { SYMLINK_BYTES_MAX } else { INLINE_BYTES_MAX }
}

fn read_body(
    from: &mut Reader<'_>,
    references: &mut References<'_>,
    inline_max: usize,
    allocated: u64,
) -> Result<Body, LayoutError> {
    Ok(match from.u8()? {
        0 => Body::None,
        1 => {
            let len = from.len16("inline bytes", inline_max)?;
            let expected = from.u32()?;
            let bytes = from.take(len)?;
            let found = checksum::crc32c(bytes);
            if found != expected {
                return Err(LayoutError::Checksum { structure: "inline bytes", expected, found });
            }
            Body::Inline { bytes: bytes.to_vec(), crc: expected }
        }
        2 => {
            let count = from.len8("slices", INLINE_SLICES_MAX)?;
            let mut slices: Vec<(Slice, Reference)> = Vec::with_capacity(count);
            for _ in 0..count {
                let slice = Slice::read(from)?;
                if slices.last().is_some_and(|(last, _)| last.end_block() > slice.file_block) {
                    return Err(from.field("slice order", slice.file_block));
                }
                slices.push((slice, references.take(STRUCTURE)?));
            }
            Body::Slices(slices)
        }
        3 => Body::Tree { root: references.take(STRUCTURE)?, bytes: allocated },
        other => return Err(from.unknown("body kind", other.into())),
    })
}

/// Bytes that extended attributes take in an inode; at most [`XATTR_BYTES_MAX`].
#[must_use]
pub fn xattr_bytes(xattrs: &Xattrs) -> usize {
    xattrs.iter().map(|(name, value)| 3 + name.len() + value.len()).sum()
}

pub(crate) fn write_xattrs(out: &mut Writer, xattrs: &Xattrs) {
    out.len8("extended attributes", xattrs.len(), u8::MAX.into());
    if xattr_bytes(xattrs) > XATTR_BYTES_MAX {
        out.fail::<()>("extended attribute bytes", xattr_bytes(xattrs));
    }
    for (name, value) in xattrs {
        out.len8("extended attribute name", name.len(), NAME_BYTES_MAX);
        out.len16("extended attribute value", value.len(), XATTR_BYTES_MAX);
        out.raw(name);
        out.raw(value);
    }
}

pub(crate) fn read_xattrs(from: &mut Reader<'_>) -> Result<Xattrs, LayoutError> {
    let count = from.len8("extended attributes", u8::MAX.into())?;
    let mut xattrs = Xattrs::new();
    for _ in 0..count {
        let name = from.len8("extended attribute name", NAME_BYTES_MAX)?;
        let value = from.len16("extended attribute value", XATTR_BYTES_MAX)?;
        xattrs.push((from.take(name)?.to_vec(), from.take(value)?.to_vec()));
    }
    if xattr_bytes(&xattrs) > XATTR_BYTES_MAX {
        return Err(from.field("extended attribute bytes", xattr_bytes(&xattrs) as u64));
    }
    Ok(xattrs)
}

/// Types in `st_mode`.
pub mod mode {
    /// Mask of the type.
    pub const TYPE: u32 = 0o170_000;
    /// Regular file.
    pub const REGULAR: u32 = 0o100_000;
    /// Directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// Symbolic link.
    pub const SYMLINK: u32 = 0o120_000;
    /// Named pipe.
    pub const FIFO: u32 = 0o010_000;
    /// Socket.
    pub const SOCKET: u32 = 0o140_000;
    /// Character device.
    pub const CHAR_DEVICE: u32 = 0o020_000;
    /// Block device.
    pub const BLOCK_DEVICE: u32 = 0o060_000;
}

/// Takes the references of an item one after the other.
#[derive(Debug)]
pub(crate) struct References<'a> {
    rest: std::slice::Iter<'a, Reference>,
}

impl<'a> References<'a> {
    pub(crate) fn new(all: &'a [Reference]) -> Self {
        Self { rest: all.iter() }
    }
    pub(crate) fn take(&mut self, structure: &'static str) -> Result<Reference, LayoutError> {
        self.rest.next().copied().ok_or(LayoutError::Field { structure, field: "references", found: 0 })
    }
    pub(crate) fn end(&self, structure: &'static str) -> Result<(), LayoutError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(LayoutError::Field { structure, field: "references left over", found: more as u64 }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
