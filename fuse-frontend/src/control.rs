//! Control commands: ioctls on a directory of the mount, what they carry, and how a program issues them.
//!
//! An ioctl needs no socket path, works in every mount namespace and carries its caller's credentials. It holds no lock
//! in the kernel, so its answer may wait until the kernel's caches agree with what was done.
//!
//! Numbers encode the direction and the size of the structure, as Linux does; a changed structure gets a new number.

pub mod client;

use envoyfs_engine::MemoryBound;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// "envoyfs1": what [`Status::magic`] holds.
pub const STATUS_MAGIC: u64 = u64::from_le_bytes(*b"envoyfs1");

const GROUP: u32 = 0xE7;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn command(direction: u32, number: u32, bytes: usize) -> u32 {
    assert!(bytes < 1 << 14, "the kernel's field for the size has 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let bytes = bytes as u32;
    direction << 30 | bytes << 16 | GROUP << 8 | number
}

/// Clones a file or directory into the directory that the ioctl is issued on. Input: [`Fork`].
pub const FORK: u32 = command(WRITE, 1, size_of::<Fork>());
/// Deletes a directory with everything in it from the directory that the ioctl is issued on. Input: [`Delete`].
pub const DELETE: u32 = command(WRITE, 2, size_of::<Delete>());
/// Makes everything that was done before durable.
pub const SYNC: u32 = command(0, 3, 0);
/// Tells about the mount and about the directory that the ioctl is issued on. Output: [`Status`].
pub const STATUS: u32 = command(READ, 4, size_of::<Status>());
/// Sync and checkpoint, so that the unmount that follows has little to do and its errors are told before.
pub const UNMOUNT_PREPARE: u32 = command(0, 5, 0);

/// Part of a text about the store. Input and output: [`TextPage`].
pub const TEXT: u32 = command(READ | WRITE, 6, size_of::<TextPage>());
/// Starts or stops a pass over the whole store, or asks how it is. Input and output: [`Pass`]. Only for root and who mounted.
pub const PASS: u32 = command(READ | WRITE, 7, size_of::<Pass>());

/// Input of [`FORK`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fork {
    /// `st_ino` of the source; the caller holds it open.
    pub source: U64,
    /// Zero.
    pub flags: U32,
    /// Bytes of `name` in use.
    pub name_bytes: U16,
    /// Zero.
    pub reserved: U16,
    /// New name.
    pub name: [u8; 256],
}

/// Input of [`DELETE`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Delete {
    /// Zero.
    pub flags: U32,
    /// Bytes of `name` in use.
    pub name_bytes: U16,
    /// Zero.
    pub reserved: U16,
    /// Name of the directory to delete.
    pub name: [u8; 256],
}

/// A part of a text that is longer than an ioctl can carry. The first call asks for offset 0 of text 0, which makes a new text; the others name the text.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TextPage {
    /// Which text; 0 asks for a new one. The daemon keeps the last one only and answers EAGAIN for others.
    pub text: U64,
    /// Where in the text this part starts.
    pub offset: U32,
    /// Bytes of the whole text.
    pub total_bytes: U32,
    /// Bytes of `part` in use.
    pub part_bytes: U16,
    /// What about; see [`text_kind`].
    pub kind: U16,
    /// Zero.
    pub reserved: [u8; 4],
    /// The part.
    pub part: [u8; 12288],
}

/// Values of [`TextPage::kind`].
pub mod text_kind {
    /// What the store counts and times, as OpenMetrics text.
    pub const METRICS: u16 = 0;
    /// Retained checkpoints, as JSON.
    pub const HISTORY: u16 = 1;
    /// What the last scrub found, as JSON.
    pub const SCRUB: u16 = 2;
    /// What the last online check found, as JSON.
    pub const CHECK: u16 = 3;
}

/// Input and output of [`PASS`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Pass {
    /// See [`pass_kind`].
    pub kind: U16,
    /// In: see [`pass_action`].
    pub action: U16,
    /// Out: see [`pass_state`].
    pub state: U16,
    /// Zero.
    pub reserved: U16,
    /// Out: counts the passes of its kind since the mount.
    pub number: U64,
    /// In: bytes to read a second; 0: no limit.
    pub bytes_per_second: U64,
    /// In: container that a scrub begins with.
    pub from: U64,
    /// Out: containers done, or nodes visited.
    pub done: U64,
    /// Out: of how many; 0: not known yet.
    pub total: U64,
    /// Out: objects verified, or referenced.
    pub objects: U64,
    /// Out: bytes verified.
    pub bytes: U64,
    /// Out: how many findings.
    pub findings: U64,
}

/// Values of [`Pass::kind`].
pub mod pass_kind {
    /// Reads and verifies everything.
    pub const SCRUB: u16 = 1;
    /// Counts every reference anew.
    pub const CHECK: u16 = 2;
}

/// Values of [`Pass::action`].
pub mod pass_action {
    /// Nothing.
    pub const ASK: u16 = 0;
    /// Start one; EBUSY if one runs.
    pub const START: u16 = 1;
    /// Stop the one that runs, soon.
    pub const STOP: u16 = 2;
}

/// Values of [`Pass::state`].
pub mod pass_state {
    /// None since the mount.
    pub const NEVER: u16 = 0;
    /// It runs.
    pub const RUNNING: u16 = 1;
    /// It ended.
    pub const DONE: u16 = 2;
    /// It was stopped.
    pub const STOPPED: u16 = 3;
    /// It failed; its text says why.
    pub const FAILED: u16 = 4;
}

/// Output of [`STATUS`]. Sizes are bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Status {
    /// [`STATUS_MAGIC`].
    pub magic: U64,
    /// Process of the daemon, in its pid namespace.
    pub pid: U32,
    /// See [`status_flags`].
    pub flags: U32,
    /// When the process started, in clock ticks since boot: tells whether `pid` is still the same process.
    pub start_ticks: U64,
    /// Bytes in segments.
    pub capacity: U64,
    /// Live bytes.
    pub live: U64,
    /// Dead bytes that are not free yet.
    pub dead: U64,
    /// Bytes in free containers.
    pub free: U64,
    /// Bytes that a writer may still use.
    pub available: U64,
    /// Objects waiting in the drop queue.
    pub drop_queue: U64,
    /// Objects with more than one reference.
    pub shared_objects: U64,
    /// Bytes of the log since the published checkpoint.
    pub log_bytes: U64,
    /// Bytes of the log's ring.
    pub ring_bytes: U64,
    /// Number of the published checkpoint.
    pub checkpoint: U64,
    /// End of the log.
    pub appended: U64,
    /// End of its durable part.
    pub durable: U64,
    /// Files and directories in the store.
    pub files: U64,
    /// Allocated bytes below the directory.
    pub tree_bytes: U64,
    /// Files below it.
    pub tree_files: U64,
    /// Directories below it.
    pub tree_directories: U64,
    /// Names of files with several names below it.
    pub tree_links: U64,
    /// Bytes of nodes in memory.
    pub node_cache: U64,
    /// Bytes of nodes that may be in memory.
    pub node_cache_max: U64,
    /// Bytes of memory that the store takes at most beside nodes, by part; see [`memory_parts`].
    pub memory: [U64; 12],
    /// Bytes of `store` in use.
    pub store_bytes: U16,
    /// Bytes of `trouble` in use.
    pub trouble_bytes: U16,
    /// Zero.
    pub reserved: U32,
    /// Path of the device or image.
    pub store: [u8; 1024],
    /// Why the store takes no more writes, if it does not.
    pub trouble: [u8; 256],
}

/// What [`Status::memory`] holds, in words and added up.
#[must_use]
pub fn memory_parts(status: &Status) -> MemoryBound {
    let [
        containers,
        segments,
        pages,
        slot_maps,
        log,
        in_flight,
        unpublished,
        checkpoint,
        cleaning,
        history,
        buffers,
        recovery,
    ] = status.memory.map(U64::get);
    MemoryBound {
        containers,
        segments,
        pages,
        slot_maps,
        log,
        in_flight,
        unpublished,
        checkpoint,
        cleaning,
        history,
        buffers,
        recovery,
    }
}

/// Bits of [`Status::flags`].
pub mod status_flags {
    /// Mounted read-only.
    pub const READ_ONLY: u32 = 1;
    /// A write or flush failed: read-only until the next mount.
    pub const POISONED: u32 = 2;
}

const _: () = assert!(size_of::<Fork>() == 272);
const _: () = assert!(size_of::<Delete>() == 264);
const _: () = assert!(size_of::<Status>() == 1560);
const _: () = assert!(size_of::<TextPage>() == 24 + 12288);
const _: () = assert!(size_of::<Pass>() == 72);

impl Pass {
    /// A request; see [`pass_kind`] and [`pass_action`].
    #[must_use]
    pub fn request(kind: u16, action: u16) -> Self {
        let mut pass: Self = zerocopy::FromZeros::new_zeroed();
        pass.kind.set(kind);
        pass.action.set(action);
        pass
    }
}

impl Fork {
    /// `None` when the name is empty or too long.
    #[must_use]
    pub fn new(source: u64, name: &[u8]) -> Option<Self> {
        let (name_bytes, name) = pack_name(name)?;
        Some(Self { source: U64::new(source), flags: U32::ZERO, name_bytes, reserved: U16::ZERO, name })
    }

    /// The new name; `None` when the structure is not well-formed.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        let well_formed = self.flags == 0 && self.reserved == 0;
        if well_formed { unpack_name(self.name_bytes, &self.name) } else { None }
    }
}

impl Delete {
    /// `None` when the name is empty or too long.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let (name_bytes, name) = pack_name(name)?;
        Some(Self { flags: U32::ZERO, name_bytes, reserved: U16::ZERO, name })
    }

    /// The name; `None` when the structure is not well-formed.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        let well_formed = self.flags == 0 && self.reserved == 0;
        if well_formed { unpack_name(self.name_bytes, &self.name) } else { None }
    }
}

impl Status {
    /// Path of the device or image.
    #[must_use]
    pub fn store(&self) -> &[u8] {
        self.store.get(..usize::from(self.store_bytes.get())).unwrap_or_default()
    }

    /// Why the store takes no more writes; empty when it does.
    #[must_use]
    pub fn trouble(&self) -> &[u8] {
        self.trouble.get(..usize::from(self.trouble_bytes.get())).unwrap_or_default()
    }
}

fn pack_name(name: &[u8]) -> Option<(U16, [u8; 256])> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let (length, packed) = pack(name);
    Some((length, packed))
}

/// As much of `text` as there is room for, zero-padded.
pub(crate) fn pack<const N: usize>(text: &[u8]) -> (U16, [u8; N]) {
    let mut packed = [0; N];
    let length = text.len().min(N).min(usize::from(u16::MAX));
    if let (Some(to), Some(from)) = (packed.get_mut(..length), text.get(..length)) {
        to.copy_from_slice(from);
    }
    (U16::new(u16::try_from(length).unwrap_or(u16::MAX)), packed)
}

fn unpack_name(length: U16, packed: &[u8; 256]) -> Option<&[u8]> {
    let length = usize::from(length.get());
    let name = packed.get(..length).filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX)?;
    let is_plain = !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..";
    is_plain.then_some(name)
}

#[cfg(test)]
mod tests;
