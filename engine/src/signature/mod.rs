//! What else may lie on a device: the signatures of other file systems, volume managers, partition tables and of envoyfs itself. The only such list of the project.
//!
//! Owns: [`SIGNATURES`] (data, one row a place where a magic number stands) and [`probe`]. Promises: reads only, and names everything it finds, not just the first.
//! `mkfs.envoyfs` refuses to overwrite what is found here, and clears it when it is told to; whoever opens a store uses it to say what a device holds instead.
//!
//! Offsets are those of the formats' own documents, compared with the list of util-linux's libblkid (decision 0012). Magic numbers of two bytes prove nothing by
//! themselves: such rows have a `confirm`.

mod table;

pub use table::{BTRFS, ENVOYFS, SIGNATURES};

use crate::device::{AlignedBuf, Device};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Where a magic number stands, in bytes.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// From the start of the device.
    Start(u64),
    /// Before the end of the device.
    End(u64),
    /// By the format's own rule from the device's size.
    Rule(fn(u64) -> Option<u64>),
}

impl At {
    /// Bytes from the start of a device of this size; `None` if the device is too small.
    #[must_use]
    pub fn offset(self, size_bytes: u64) -> Option<u64> {
        match self {
            Self::Start(offset) => Some(offset),
            Self::End(before) => size_bytes.checked_sub(before),
            Self::Rule(rule) => rule(size_bytes),
        }
    }
}

/// A magic number that means "something is here".
#[derive(Debug)]
pub struct Signature {
    /// What to call it in a message.
    pub name: &'static str,
    /// Where the magic number stands.
    pub at: At,
    /// The magic number.
    pub magic: &'static [u8],
    /// For magic numbers too short to mean anything alone: looks at the rest.
    pub confirm: Option<fn(&Probe<'_>) -> bool>,
}

/// Something found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub name: &'static str,
    /// Bytes from the start of the device to its magic number.
    pub offset: u64,
    /// Length of the magic number.
    pub magic_bytes: u64,
}

/// What can be looked at: a file, or a [`Device`].
pub trait Bytes {
    /// Fills `out` from a byte offset, which lies inside.
    ///
    /// # Errors
    /// What reading reports.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl Bytes for File {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }
}

/// A device read in whole blocks.
struct Blocks<'a>(&'a dyn Device);

impl Bytes for Blocks<'_> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let block = u64::from(self.0.geometry().logical_block_bytes.max(1));
        let from = offset / block * block;
        let to = offset.saturating_add(out.len() as u64).next_multiple_of(block);
        let mut buffer = AlignedBuf::zeroed(usize::try_from(to - from).unwrap_or(usize::MAX));
        self.0.read(from, &mut buffer).map_err(io::Error::other)?;
        let within = usize::try_from(offset - from).unwrap_or(usize::MAX);
        let bytes = buffer.as_slice().get(within..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Reads a device for signatures.
pub struct Probe<'a> {
    bytes: &'a dyn Bytes,
    size_bytes: u64,
}

impl Probe<'_> {
    /// Bytes from `offset`; `None` past the end, or when they cannot be read.
    pub(crate) fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut out = [0; N];
        self.fill(offset, &mut out).ok()?.then_some(out)
    }
    fn fill(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.size_bytes) {
            return Ok(false);
        }
        match self.bytes.read_at(offset, out) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
    pub(crate) fn u32_at(&self, offset: u64) -> Option<u32> {
        self.bytes::<4>(offset).map(u32::from_le_bytes)
    }
}

/// Everything known that is on the device, in the order of its offsets.
///
/// # Errors
/// What reading reports.
pub fn probe(bytes: &dyn Bytes, size_bytes: u64) -> io::Result<Vec<Found>> {
    let probe = Probe { bytes, size_bytes };
    let mut found = zfs(&probe)?;
    for signature in SIGNATURES {
        let Some(offset) = signature.at.offset(size_bytes) else { continue };
        let mut bytes = vec![0; signature.magic.len()];
        if probe.fill(offset, &mut bytes)?
            && bytes == signature.magic
            && signature.confirm.is_none_or(|confirm| confirm(&probe))
        {
            found.push(Found { name: signature.name, offset, magic_bytes: signature.magic.len() as u64 });
        }
    }
    found.sort_by_key(|found| found.offset);
    found.dedup();
    Ok(found)
}

/// The same for a device that is open already.
///
/// # Errors
/// What reading reports.
pub fn probe_device(device: &dyn Device) -> io::Result<Vec<Found>> {
    probe(&Blocks(device), device.geometry().size_bytes)
}

/// Names of what was found, each once, for a message.
#[must_use]
pub fn names(found: &[Found]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for found in found {
        if !names.contains(&found.name) {
            names.push(found.name);
        }
    }
    names.join(", ")
}

/// Two labels of 256 KiB at either end; the uberblocks fill the second half of each. All of them, since each must go.
fn zfs(probe: &Probe<'_>) -> io::Result<Vec<Found>> {
    const LABEL: u64 = 256 * 1024;
    let end = probe.size_bytes & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    let mut found = Vec::new();
    for label in labels.into_iter().flatten() {
        let mut ring = vec![0; 128 * 1024];
        if !probe.fill(label + 128 * 1024, &mut ring)? {
            continue;
        }
        for (index, uberblock) in ring.chunks(1024).enumerate() {
            if matches!(uberblock, [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c, ..]) {
                let offset = label + 128 * 1024 + 1024 * index as u64;
                found.push(Found { name: table::ZFS, offset, magic_bytes: 8 });
                break;
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
