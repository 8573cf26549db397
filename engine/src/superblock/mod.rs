//! Superblock and volume directory: opening, repairing, publishing.
//!
//! Owns the order of writes that makes a publication atomic. Version N:
//!
//! ```text
//! caller: directory N -> slot N mod 2 of areas A and B, perhaps a whole table (write_directory), everything it names, FLUSH
//! publish: superblocks 0, 1 -> FLUSH (N rules) -> superblocks 2, 3 -> FLUSH -> only now is anything of N - 1 reused
//! ```
//! If power fails before the first flush, N - 1 rules, whatever is torn; after it, N. A mount repairs what it finds once it is known that the store can be
//! mounted (until then it writes only where no superblock leads), and never touches a good copy. A failed write or flush in here poisons the store: the caller tells [`crate::wal::Wal::poison`].

mod directory;
mod identity;
mod rule;

pub use directory::{PublishedTable, damaged_copies, read_directory, read_published, write_directory};
pub use identity::{renew_directory, set_errors, set_identity};
pub use rule::{Copies, choose, repairs};

use crate::device::{AlignedBuf, Device, DeviceError, Write};
use crate::sabotage::{self, Rule};
use crate::signature;
use envoyfs_layout::segment::SegmentHeader;
use envoyfs_layout::superblock::{BYTES, COPIES, Superblock, incompatible};
use envoyfs_layout::{LayoutError, UNIT};

/// Why a store does not open, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// Nothing of envoyfs is there.
    #[error(
        "{device} is not an envoyfs store{}; check the path; if it was one: fsck.envoyfs -n {device}; a new one is made, and what is there lost, with: mkfs.envoyfs {device}",
        holds(foreign)
    )]
    NotAStore {
        /// The device.
        device: String,
        /// What it looks like instead; empty if nothing known is there.
        foreign: String,
    },
    /// The store says that it is larger than the device.
    #[error(
        "{device} is truncated: the store has {expected} bytes, the device {found}; extend the image to its full size (truncate -s {expected}), or restore it from a complete copy"
    )]
    Truncated {
        /// The device.
        device: String,
        /// Bytes of the store.
        expected: u64,
        /// Bytes of the device.
        found: u64,
    },
    /// Features of a newer version.
    #[error("{device} uses features that this version does not know ({features}); mount it with a newer envoyfs")]
    Features {
        /// The device.
        device: String,
        /// Their names or bits.
        features: String,
    },
    /// It was formatted by a version with another format.
    #[error("{device}: {source}")]
    Version {
        /// The device.
        device: String,
        /// Which version.
        source: LayoutError,
    },
    /// Blocks of the store are smaller than what the device can write.
    #[error(
        "{device}: the store was made for blocks of {expected} bytes, the device writes {found}; put it on a device with smaller blocks, or copy its files to a new store"
    )]
    LogicalBlock {
        /// The device.
        device: String,
        /// Block of the store.
        expected: u32,
        /// Block of the device.
        found: u32,
    },
    /// It is a store, but no copy of its superblock is whole.
    #[error(
        "{device}: all four copies of the superblock are damaged ({first}); copy the image first; then run: fsck.envoyfs --rebuild {device}"
    )]
    AllDamaged {
        /// The device.
        device: String,
        /// What is wrong with the first.
        first: LayoutError,
    },
    /// Both copies of the volume directory that the superblock names are damaged.
    #[error("{device}: both copies of the volume directory are damaged (at {} and {}: {source}); copy the image first; then run: fsck.envoyfs --rebuild {device}", at[0], at[1])]
    Directory {
        /// The device.
        device: String,
        /// Byte offsets of the copies.
        at: [u64; 2],
        /// What is wrong with the last.
        source: LayoutError,
    },
    /// It has features of a newer version, which allow this one only to read.
    #[error("{device}: {why}; change it with a newer envoyfs")]
    OnlyRead {
        /// The device.
        device: String,
        /// Which features.
        why: String,
    },
    /// Beside the store the device holds the signature of something else, where copies of the superblock would be written.
    #[error(
        "{device} holds a store, but where superblocks of it should be there is something else: {foreign}; if that is what you want to keep, leave it as it is; if it is the store: fsck.envoyfs -fp --overwrite {device} (or look at it with: mount -o ro)"
    )]
    Foreign {
        /// The device.
        device: String,
        /// What else it looks like.
        foreign: String,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

fn holds(foreign: &str) -> String {
    if foreign.is_empty() { String::new() } else { format!(" (it holds: {foreign})") }
}

/// An opened store, before anything was written.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The superblock that rules.
    pub superblock: Superblock,
    /// What each copy held.
    pub copies: Copies,
    /// The device is larger than the store by so many bytes.
    pub unused_bytes: u64,
    /// Read-only features that this version does not know: the store may be read, not written.
    pub read_only: Option<String>,
    /// Copies at the start are damaged, and these signatures are there instead: something newer, perhaps. Empty if not.
    pub foreign: String,
}

impl Opened {
    /// Copies that must be rewritten, in order; see [`repairs`].
    #[must_use]
    pub fn repairs(&self) -> Vec<Vec<usize>> {
        repairs(&self.copies, &self.superblock)
    }

    /// Before anything is written: a repair of the copies would overwrite what somebody has put there since.
    ///
    /// # Errors
    /// [`OpenError::Foreign`].
    pub fn refuse_foreign(&self, device: &dyn Device) -> Result<(), OpenError> {
        if self.foreign.is_empty() {
            return Ok(());
        }
        Err(OpenError::Foreign { device: device.label(), foreign: self.foreign.clone() })
    }
}

/// Buffer length for a structure: whole logical blocks.
fn buffer(bytes: usize) -> AlignedBuf {
    AlignedBuf::zeroed(bytes.next_multiple_of(4096))
}

/// Reads; an unreadable range counts as damaged, not as a failure of the call, since single sectors fail.
fn read(device: &dyn Device, offset: u64, bytes: usize) -> Result<Option<AlignedBuf>, DeviceError> {
    let mut buf = buffer(bytes);
    match device.read(offset, &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(DeviceError::Io { .. } | DeviceError::ShortDevice { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Reads all four copies and decides. Writes nothing. Flush the device first: the newest copies may still be in its cache (INV-20).
///
/// # Errors
/// Says what the device holds and what to do.
pub fn open(device: &dyn Device) -> Result<Opened, OpenError> {
    let (copies, damage) = read_copies(device)?;
    let Some(superblock) = choose(&copies).cloned() else { return Err(explain(device, damage)) };
    let name = device.label();
    let geometry = device.geometry();
    let unknown = superblock.incompatible & !incompatible::KNOWN;
    if unknown != 0 {
        return Err(OpenError::Features { device: name, features: feature_names(unknown) });
    }
    if superblock.size > geometry.size_bytes {
        return Err(OpenError::Truncated { device: name, expected: superblock.size, found: geometry.size_bytes });
    }
    if superblock.logical_block < geometry.logical_block_bytes {
        let (expected, found) = (superblock.logical_block, geometry.logical_block_bytes);
        return Err(OpenError::LogicalBlock { device: name, expected, found });
    }
    let read_only = Some(superblock.read_only_compatible).filter(|bits| *bits != 0);
    Ok(Opened {
        unused_bytes: geometry.size_bytes.saturating_sub(superblock.size),
        foreign: foreign(device, &copies, &superblock),
        read_only: read_only.map(|bits| format!("features {bits:#x} allow this version only to read")),
        superblock,
        copies,
    })
}

/// What stands at the start of the device where a copy is damaged. Beyond the start lies what clients write: anything can look like anything there.
fn foreign(device: &dyn Device, copies: &Copies, rules: &Superblock) -> String {
    const START_BYTES: u64 = 68 << 10;
    if let [Some(_), Some(_), ..] = copies {
        return String::new();
    }
    // Only to name it: what cannot be read is not named.
    let mut found = signature::probe_device(device).unwrap_or_default();
    found.retain(|found| found.name != signature::ENVOYFS && found.offset < START_BYTES);
    let at_start = copies.iter().take(2).flatten().count();
    if found.is_empty() && at_start == 0 && holds_another(device, rules) {
        return "segments of another envoyfs store".into();
    }
    signature::names(&found)
}

/// Only the copies at the end of the device tell of the store. Was the image of a smaller one copied over its start, whose own copies at the start are damaged? Its segments
/// say whose they are; the first of them lies behind its log. Costs a read every 64 KiB, 17 408 at most.
fn holds_another(device: &dyn Device, rules: &Superblock) -> bool {
    const STEP: u64 = 64 << 10;
    const LOOK_BYTES: u64 = (1 << 30) + (64 << 20);
    let end = device.geometry().size_bytes.saturating_sub(4096).min(LOOK_BYTES);
    (1..=end / STEP).map(|step| step * STEP).any(|position| {
        let Ok(Some(unit)) = read(device, position, 4096) else { return false };
        let seed: Option<[u8; 16]> = unit.as_slice().get(16..32).and_then(|seed| seed.try_into().ok());
        seed.is_some_and(|seed| {
            let unit = unit.as_slice().get(..UNIT as usize).unwrap_or_default();
            seed != rules.seed && SegmentHeader::decode(unit, &seed, position).is_ok_and(|header| header.seed == seed)
        })
    })
}

type Damage = Vec<LayoutError>;

/// Copies 0 and 1 lie at fixed places; where 2 and 3 are follows from the size in one of these, or from the device's own.
fn read_copies(device: &dyn Device) -> Result<(Copies, Damage), OpenError> {
    let mut copies: Copies = [None, None, None, None];
    let mut damage = Vec::new();
    let mut fill = |index: usize, position: u64, copies: &mut Copies| -> Result<(), OpenError> {
        let decoded = match read(device, position, BYTES)? {
            Some(buf) => Superblock::decode(buf.as_slice(), position),
            None => Err(LayoutError::Short { structure: "superblock", expected: BYTES, found: 0 }),
        };
        match (decoded, copies.get_mut(index)) {
            (Ok(superblock), Some(copy)) => *copy = Some(superblock),
            (Err(error), _) => damage.push(error),
            (Ok(_), None) => {}
        }
        Ok(())
    };
    let device_size = device.geometry().size_bytes & !4095;
    let [first, second, ..] = Superblock::positions(device_size);
    fill(0, first, &mut copies)?;
    fill(1, second, &mut copies)?;
    let size = choose(&copies).map_or(device_size, |superblock| superblock.size);
    if size >= 4 * 4096 {
        let [.., third, fourth] = Superblock::positions(size);
        fill(2, third, &mut copies)?;
        fill(3, fourth, &mut copies)?;
    }
    Ok((copies, damage))
}

/// No copy is valid: is there a store at all?
fn explain(device: &dyn Device, damage: Damage) -> OpenError {
    let name = device.label();
    let is_store = |error: &&LayoutError| !matches!(error, LayoutError::Magic { .. } | LayoutError::Short { .. });
    // A copy that a power cut tore says less than a whole one of a newer version.
    let newer = damage.iter().find(|error| matches!(error, LayoutError::Unknown { .. }));
    if let Some(first) = newer.or_else(|| damage.iter().find(is_store)) {
        return match first {
            LayoutError::Unknown { .. } => OpenError::Version { device: name, source: first.clone() },
            _ => OpenError::AllDamaged { device: name, first: first.clone() },
        };
    }
    // Only to name it: what cannot be read is not named.
    let found = signature::probe_device(device).unwrap_or_default();
    OpenError::NotAStore { device: name, foreign: signature::names(&found) }
}

fn feature_names(bits: u64) -> String {
    let names = incompatible::NAMES;
    let known = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_string());
    let rest = names.iter().fold(bits, |bits, (bit, _)| bits & !bit);
    let rest = Some(rest).filter(|rest| *rest != 0).map(|rest| format!("{rest:#x}"));
    known.chain(rest).collect::<Vec<_>>().join(", ")
}

/// Rewrites the copies that need it, a flush after each group. Call before anything else is written. Costs nothing when all four agree.
///
/// # Errors
/// Whatever the device says; the store must not be written then.
pub fn repair(device: &dyn Device, opened: &Opened) -> Result<(), DeviceError> {
    let groups = opened.repairs();
    let groups = if sabotage::on(Rule::RepairAllAtOnce) { vec![groups.concat()] } else { groups };
    for group in groups {
        write_copies(device, &opened.superblock, &group)?;
        device.flush()?;
    }
    Ok(())
}

fn write_copies(device: &dyn Device, superblock: &Superblock, members: &[usize]) -> Result<(), DeviceError> {
    let positions = Superblock::positions(superblock.size);
    let positions = positions.iter().enumerate().filter(|(index, _)| members.contains(index)).map(|(_, at)| *at);
    let tickets: Vec<_> = positions
        .map(|position| {
            let mut buf = buffer(BYTES);
            buf.as_mut_slice().copy_from_slice(&superblock.encode(position));
            device.submit(Write::whole(position, buf))
        })
        .collect();
    tickets.iter().try_for_each(|ticket| ticket.wait())
}

/// Makes `next` the superblock that rules. Everything it names is durable already. When this returns, and not before, what only its predecessor names may be reused.
///
/// # Errors
/// Whatever the device says; which of the two rules is open until the next mount.
pub fn publish(device: &dyn Device, next: &Superblock) -> Result<(), DeviceError> {
    for pair in [[0, 1], [2, 3]] {
        write_copies(device, next, &pair)?;
        if pair == [2, 3] || !sabotage::on(Rule::SuperblockPairsTogether) {
            device.flush()?;
        }
    }
    Ok(())
}

/// Writes the first superblock of a store: everything else of it first, then a flush, then this.
///
/// # Errors
/// Whatever the device says.
pub fn format(device: &dyn Device, first: &Superblock) -> Result<(), DeviceError> {
    let all: Vec<usize> = (0..COPIES).collect();
    device.flush()?;
    write_copies(device, first, &all)?;
    device.flush()
}

#[cfg(test)]
mod tests;
