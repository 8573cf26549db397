//! A directory's own attributes: the root blob of its tree, so that creating a file in it changes no entry in its parent (in memory).
//!
//! ```text
//! | version 1 | reserved 3 | mode 4 | uid 4 | gid 4 | flags 4 | 4 x {seconds 8, nanoseconds 4} | hash key 16 | parent realm 8 | parent inode 8 |
//! | quota bytes 8 | quota files 8 | xattrs |
//! ```

use crate::codec::{Reader, Writer};
use crate::inode::{read_xattrs, write_xattrs};
use crate::{LayoutError, Timestamp, Xattrs};

const STRUCTURE: &str = "directory attributes";
const VERSION: u8 = 1;

/// Attributes of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryAttributes {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Flags (`FS_IOC_GETFLAGS`).
    pub flags: u32,
    /// Access time.
    pub atime: Timestamp,
    /// Time of the last change of names.
    pub mtime: Timestamp,
    /// Time of the last change of names or attributes.
    pub ctime: Timestamp,
    /// Time of creation.
    pub btime: Timestamp,
    /// Key of the SipHash-1-3 that orders the names. Never changes; a clone keeps it.
    pub hash_key: [u8; 16],
    /// Realm id of the parent when the attributes were last written: a hint for repair.
    pub parent_realm: u64,
    /// Inode number of the parent, likewise.
    pub parent_inode: u64,
    /// Most bytes below, 0 for no limit.
    pub quota_bytes: u64,
    /// Most files and directories below, 0 for no limit.
    pub quota_files: u64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl DirectoryAttributes {
    /// The root blob.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        self.write(&mut out);
        out.finish()
    }
    /// From a root blob.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, bytes);
        let attributes = Self::read(&mut from)?;
        from.end()?;
        Ok(attributes)
    }
    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.zeros(3);
        for value in [self.mode, self.uid, self.gid, self.flags] {
            out.u32(value);
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            time.write(out);
        }
        out.raw(&self.hash_key);
        for value in [self.parent_realm, self.parent_inode, self.quota_bytes, self.quota_files] {
            out.u64(value);
        }
        write_xattrs(out, &self.xattrs);
    }
    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let version = from.u8()?;
        if version != VERSION {
            return Err(from.unknown("version", version.into()));
        }
        from.zeros(3)?;
        let mut out = Self::default();
        for field in [&mut out.mode, &mut out.uid, &mut out.gid, &mut out.flags] {
            *field = from.u32()?;
        }
        for time in [&mut out.atime, &mut out.mtime, &mut out.ctime, &mut out.btime] {
            *time = Timestamp::read(from)?;
        }
        out.hash_key = from.array()?;
        let fields = [&mut out.parent_realm, &mut out.parent_inode, &mut out.quota_bytes, &mut out.quota_files];
        for field in fields {
            *field = from.u64()?;
        }
        out.xattrs = read_xattrs(from)?;
        Ok(out)
    }
}
