//! Answers that are still owed: one enum a kind of answer, one variant a transport. Dropping one answers `EIO`.
//!
//! A token is `Send`: it may be parked until something is durable and answered on another thread.

use crate::errno::Errno;
use crate::front::{Caching, Found, Statfs};
use crate::pool::PooledBuffer;
use crate::transport::fuser::reply;
use envoyfs_namespace::api::{Attributes, DirectoryEntry};

/// Owes an inode, or the fact that there is none.
#[derive(Debug)]
pub enum EntryToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyEntry),
}

impl EntryToken {
    /// Answers. The lookup count must have been raised before.
    pub fn answer(self, result: Result<Found, Errno>) {
        match self {
            Self::Fuser(token) => reply::entry(token, result),
        }
    }
}

/// Owes attributes.
#[derive(Debug)]
pub enum AttributesToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyAttr),
}

impl AttributesToken {
    /// Answers.
    pub fn answer(self, result: Result<Attributes, Errno>) {
        match self {
            Self::Fuser(token) => reply::attributes(token, result),
        }
    }
}

/// Owes success or failure.
#[derive(Debug)]
pub enum EmptyToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyEmpty),
}

impl EmptyToken {
    /// Answers.
    pub fn answer(self, result: Result<(), Errno>) {
        match self {
            Self::Fuser(token) => reply::empty(token, result),
        }
    }
}

/// Owes bytes.
#[derive(Debug)]
pub enum DataToken {
    /// Through `fuser`, with the buffer to fill.
    Fuser(fuser::ReplyData, PooledBuffer),
}

impl DataToken {
    /// Where the bytes go; as long as the caller asked for.
    pub fn buffer(&mut self) -> &mut [u8] {
        match self {
            Self::Fuser(_, buffer) => buffer.bytes_mut(),
        }
    }

    /// Answers with the first bytes of the buffer.
    pub fn answer(self, result: Result<usize, Errno>) {
        match self {
            Self::Fuser(token, buffer) => reply::data(token, result.map(|count| buffer.first(count))),
        }
    }

    /// Answers with other bytes.
    pub fn answer_bytes(self, result: Result<&[u8], Errno>) {
        match self {
            Self::Fuser(token, _) => reply::data(token, result),
        }
    }
}

/// Owes a handle.
#[derive(Debug)]
pub enum OpenToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyOpen),
}

impl OpenToken {
    /// Answers.
    pub fn answer(self, result: Result<Caching, Errno>) {
        match self {
            Self::Fuser(token) => reply::opened(token, result),
        }
    }
}

/// Owes a new file and a handle.
#[derive(Debug)]
pub enum CreateToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyCreate),
}

impl CreateToken {
    /// Answers.
    pub fn answer(self, result: Result<(Attributes, Caching), Errno>) {
        match self {
            Self::Fuser(token) => reply::created(token, result),
        }
    }
}

/// Owes a count of bytes written or copied.
#[derive(Debug)]
pub enum WriteToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyWrite),
}

impl WriteToken {
    /// Answers.
    pub fn answer(self, result: Result<u32, Errno>) {
        match self {
            Self::Fuser(token) => reply::written(token, result),
        }
    }
}

/// Owes sizes of the file system.
#[derive(Debug)]
pub enum StatfsToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyStatfs),
}

impl StatfsToken {
    /// Answers.
    pub fn answer(self, result: Result<Statfs, Errno>) {
        match self {
            Self::Fuser(token) => reply::statfs(token, result),
        }
    }
}

/// Owes an extended attribute or its length.
#[derive(Debug)]
pub enum XattrToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyXattr),
}

impl XattrToken {
    /// Answers a caller that has room for `room` bytes; 0 asks for the length.
    pub fn answer(self, room: u32, result: Result<&[u8], Errno>) {
        match self {
            Self::Fuser(token) => reply::xattr(token, room, result),
        }
    }
}

/// Owes an offset.
#[derive(Debug)]
pub enum SeekToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyLseek),
}

impl SeekToken {
    /// Answers.
    pub fn answer(self, result: Result<i64, Errno>) {
        match self {
            Self::Fuser(token) => reply::sought(token, result),
        }
    }
}

/// Owes the result of a control command.
#[derive(Debug)]
pub enum IoctlToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyIoctl),
}

impl IoctlToken {
    /// Answers.
    pub fn answer(self, result: Result<&[u8], Errno>) {
        match self {
            Self::Fuser(token) => reply::ioctl(token, result),
        }
    }
}

/// Owes names.
#[derive(Debug)]
pub enum DirectoryToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyDirectory),
}

impl DirectoryToken {
    /// Adds a name; false when there is no room for it.
    #[must_use]
    pub fn add(&mut self, entry: &DirectoryEntry) -> bool {
        match self {
            Self::Fuser(token) => reply::add_name(token, entry),
        }
    }

    /// Answers with what was added.
    pub fn answer(self, result: Result<(), Errno>) {
        match self {
            Self::Fuser(token) => reply::names(token, result),
        }
    }
}

/// Owes names with attributes.
#[derive(Debug)]
pub enum DirectoryPlusToken {
    /// Through `fuser`.
    Fuser(fuser::ReplyDirectoryPlus),
}

impl DirectoryPlusToken {
    /// Adds a name; false when there is no room for it. The lookup count must have been raised before, but for "." and
    /// "..".
    #[must_use]
    pub fn add(&mut self, entry: &DirectoryEntry, attributes: &Attributes) -> bool {
        match self {
            Self::Fuser(token) => reply::add_name_plus(token, entry, attributes),
        }
    }

    /// Answers with what was added.
    pub fn answer(self, result: Result<(), Errno>) {
        match self {
            Self::Fuser(token) => reply::names_plus(token, result),
        }
    }
}
