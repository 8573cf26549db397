//! Making a store: geometry, empty ring and system areas, the first volume directory, the superblocks last.
//!
//! Owns [`Regions`]: where everything lies, from the size of the device and what was asked for.
//!
//! ```text
//! zero both ends (old superblocks go first), ring and areas of an image -> directory -> flush -> superblocks -> flush
//! ```
//! If power fails before the superblocks are written there is no store; a half-made one does not open. After the first of them the store is whole, since all else was
//! flushed before.

use crate::StoreError;
use crate::device::{AlignedBuf, Calibration, Device, Write, WriteCache, calibrate, scratch_bytes};
use crate::hlc::{Clock, wall_hlc};
use crate::space::admission::Budget;
use crate::store::Result;
use crate::superblock::PublishedTable;
use crate::{signature, superblock};
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, DirectoryPage, Place, PublishedCheckpoint, Role, StartPosition, Totals, VolumeDirectory,
    VolumeEntry,
};
use envoyfs_layout::superblock::{Barrier, Superblock};
use envoyfs_layout::{ClientTag, Hlc};
use std::sync::Arc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest store.
pub const SIZE_MIN: u64 = 128 * MIB;
/// Smallest store for simulation.
pub const SIZE_MIN_SIMULATED: u64 = 8 * MIB;
const RING_OFFSET: u64 = 64 * KIB;
/// Segments that are open at once, and one that a checkpoint closes.
const OPEN_SEGMENTS: u64 = 4;
/// Blocks of the log that a segment of a checkpoint takes: opened, placed, sealed, each alone in the worst case.
const RECORDS_OF_A_SEGMENT: u64 = 3;

/// How to make a store. Randomness and time are parameters.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// Label, at most 64 bytes.
    pub label: String,
    /// Identity of the store; random unless the user says so.
    pub uuid: [u8; 16],
    /// Random: seeds checksums, names the volume.
    pub seed: [u8; 16],
    /// Wall clock, nanoseconds since 1970.
    pub now_ns: i64,
    /// Bytes of the log, instead of what follows from the size.
    pub wal_bytes: Option<u64>,
    /// Bytes of a segment, a power of two, instead of what follows from the size.
    pub segment_bytes: Option<u32>,
    /// Overwrite what the device holds.
    pub force: bool,
    /// For simulation: allow stores from 8 MiB, with segments from 256 KiB.
    pub small: bool,
}

impl FormatOptions {
    /// Everything else follows from the size, and nothing is overwritten.
    #[must_use]
    pub fn new(label: &str, uuid: [u8; 16], seed: [u8; 16], now_ns: i64) -> Self {
        let label = label.into();
        Self { label, uuid, seed, now_ns, wal_bytes: None, segment_bytes: None, force: false, small: false }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Bytes of the store.
    pub size: u64,
    /// Bytes of the log.
    pub wal_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Segments that fit.
    pub containers: u32,
    /// Bytes in segments.
    pub capacity: u64,
    /// Bytes of them that writers leave to checkpoints and deletions.
    pub reserve: u64,
    /// Volume id drawn.
    pub volume: u16,
    /// How the device makes barriers, if it was measured.
    pub calibration: Option<Calibration>,
}

/// Where the regions of a store lie, in bytes from the start of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regions {
    /// Bytes of the store, a multiple of 4096.
    pub size: u64,
    /// Bytes of a block of the log.
    pub block_bytes: u32,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Where the ring of the log starts.
    pub ring_offset: u64,
    /// Its bytes.
    pub ring_bytes: u64,
    /// Where system area A starts.
    pub area_a: u64,
    /// Where system area B starts.
    pub area_b: u64,
    /// Bytes of a slot; each area has two.
    pub area_slot_bytes: u64,
    /// Where the first segment starts.
    pub segments_offset: u64,
    /// Segments.
    pub containers: u32,
    /// Bytes of the segments that writers leave to checkpoints and deletions.
    pub reserve_bytes: u64,
}

/// The ring holds the records of several checkpoints at once: [`Regions::plan`] asks for eight times what one of them needs.
const RING_CHECKPOINTS_MIN: u64 = 8;
/// Smallest ring of a store that is not for simulation.
const RING_BYTES_MIN: u64 = 4 * MIB;

impl Regions {
    /// For a device of so many bytes with logical blocks of so many. Touches nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: too small, or a size asked for that does not fit; says what would.
    pub fn plan(size: u64, block_bytes: u32, options: &FormatOptions) -> Result<Self> {
        let size = size & !4095;
        let refused = |why: String| StoreError::Refused(why);
        let least = if options.small { SIZE_MIN_SIMULATED } else { SIZE_MIN };
        if size < least {
            return Err(refused(format!(
                "the device has {} MiB; a store needs at least {} MiB",
                size / MIB,
                least / MIB
            )));
        }
        let by_size = match size {
            s if s < 384 * MIB => MIB,
            s if s < GIB => 2 * MIB,
            s if s < 32 * GIB => 4 * MIB,
            _ => 16 * MIB,
        };
        let segment = options.segment_bytes.map_or(by_size, u64::from);
        let smallest = if options.small { 256 * KIB } else { MIB };
        if !segment.is_power_of_two() || segment < smallest || segment > 16 * MIB {
            return Err(refused(format!(
                "a segment of {segment} bytes; it must be a power of two from {} KiB to 16 MiB",
                smallest / KIB
            )));
        }
        let segment_bytes = u32::try_from(segment).unwrap_or(u32::MAX);
        let budget = Budget::new(size, segment_bytes);
        let ring_bytes = options.wal_bytes.unwrap_or_else(|| (size / 32).clamp(8 * MIB, GIB)) & !4095;
        let segments = budget.dirty_max / budget.container_bytes.max(1) + OPEN_SEGMENTS;
        let a_checkpoint = (RECORDS_OF_A_SEGMENT * segments + 16) * 4096;
        let ring_min = match options.small {
            true => 128 * KIB,
            false => RING_BYTES_MIN.max((RING_CHECKPOINTS_MIN * a_checkpoint).next_multiple_of(MIB)),
        };
        let (ring_max, mib) = ((size / 2).max(ring_min), |bytes: u64| bytes.div_ceil(MIB));
        if !(ring_min..=ring_max).contains(&ring_bytes) {
            return Err(refused(format!(
                "a log of {} MiB; in a store of this size with segments of {} MiB it can have {} to {} MiB",
                mib(ring_bytes),
                mib(segment),
                mib(ring_min),
                ring_max / MIB
            )));
        }
        let area_a = RING_OFFSET + ring_bytes;
        let end = size - 2 * 4096;
        let align = segment.min(MIB);
        let fits = |containers: u64| {
            let slot = DirectoryPage::slot_bytes(u32::try_from(containers).ok()?).next_multiple_of(4096);
            let segments_offset = (area_a + 2 * slot).next_multiple_of(align);
            let area_b = segments_offset.checked_add(containers.checked_mul(segment)?)?;
            (area_b + 2 * slot <= end).then_some((slot, segments_offset, area_b))
        };
        // The most that fit: those that do are a prefix of all numbers.
        let (mut containers, mut too_many) = (0, end.saturating_sub(area_a) / segment + 1);
        while containers + 1 < too_many {
            let middle = containers + (too_many - containers) / 2;
            if fits(middle).is_some() {
                containers = middle;
            } else {
                too_many = middle;
            }
        }
        let too_small = || {
            refused(format!(
                "a log of {} MiB and segments of {} KiB leave no room for files",
                ring_bytes / MIB,
                segment / KIB
            ))
        };
        let (area_slot_bytes, segments_offset, area_b) = fits(containers).ok_or_else(too_small)?;
        if containers * budget.container_bytes <= budget.reserve + 2 * segment {
            return Err(too_small());
        }
        Ok(Self {
            size,
            block_bytes: block_bytes.max(512),
            segment_bytes,
            ring_offset: RING_OFFSET,
            ring_bytes,
            area_a,
            area_b,
            area_slot_bytes,
            segments_offset,
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
            reserve_bytes: budget.reserve,
        })
    }

    /// What a format writes zeros to: both ends of the device, so that nothing older is found there; in an image file also ring and system areas, since an fsync must not
    /// have to allocate or convert extents of the file system below.
    #[must_use]
    pub fn zeroed(&self, is_block_device: bool) -> Vec<(u64, u64)> {
        let mut zeroed = vec![(0, RING_OFFSET), (self.size - 2 * 4096, 2 * 4096)];
        if !is_block_device {
            let areas = 2 * self.area_slot_bytes;
            zeroed.extend([(self.ring_offset, self.ring_bytes), (self.area_a, areas), (self.area_b, areas)]);
        }
        zeroed
    }
}

/// Makes a store. Destroys what the device held.
///
/// # Errors
/// [`StoreError::Refused`], or what the device reports.
pub fn format(device: &dyn Device, options: &FormatOptions) -> Result<Made> {
    format_with_progress(device, options, &mut |_, _| {})
}

/// As [`format()`]; calls `progress(bytes written, bytes to write)` now and then.
///
/// # Errors
/// [`StoreError::Refused`], or what the device reports.
pub fn format_with_progress(
    device: &dyn Device,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Made> {
    format_calibrated(device, options, None, progress)
}

/// As [`format_with_progress`]; with a clock, it also measures which barrier the device makes best (half a second at most) and keeps that in the superblock.
///
/// # Errors
/// [`StoreError::Refused`], or what the device reports.
pub fn format_calibrated(
    device: &dyn Device,
    options: &FormatOptions,
    clock: Option<&dyn Clock>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Made> {
    let geometry = device.geometry();
    let regions = Regions::plan(geometry.size_bytes, geometry.logical_block_bytes, options)?;
    if !options.force {
        let found = signature::probe_device(device)
            .map_err(|error| StoreError::Refused(format!("{} cannot be read: {error}", device.label())))?;
        if !found.is_empty() {
            return Err(StoreError::Refused(format!(
                "{} holds: {}; use --force to overwrite it",
                device.label(),
                signature::names(&found)
            )));
        }
    }
    let zeroed = regions.zeroed(geometry.is_block_device);
    let (mut done, total) = (0, zeroed.iter().map(|(_, bytes)| bytes).sum());
    for (offset, bytes) in zeroed {
        zero(device, offset, bytes, &mut |step| {
            done += step;
            progress(done, total);
        })?;
    }
    let (mut superblock, mut directory) = first(&regions, options);
    superblock.device_cache = WriteCache::bits(device.write_cache());
    let calibration = match clock {
        Some(clock) => {
            // The ring: nothing in it is read before it is written.
            let scratch = regions.ring_offset..regions.ring_offset + scratch_bytes(device).min(regions.ring_bytes);
            Some(calibrate(device, clock, scratch)?)
        }
        None => None,
    };
    superblock.barrier = calibration.map_or(Barrier::Flush, |calibration| calibration.barrier);
    superblock::write_directory(device, &mut superblock, &mut directory, &mut PublishedTable::default())?;
    superblock::format(device, &superblock)?;
    Ok(Made {
        size: regions.size,
        wal_bytes: regions.ring_bytes,
        segment_bytes: regions.segment_bytes,
        containers: regions.containers,
        capacity: u64::from(regions.containers) * u64::from(regions.segment_bytes),
        reserve: regions.reserve_bytes,
        volume: directory.entry.volume,
        calibration,
    })
}

/// The superblock and the volume directory of an empty store, without writing anything: what a rebuild starts from.
///
/// # Errors
/// No store fits.
pub fn blank(size: u64, block_bytes: u32, options: &FormatOptions) -> Result<(Superblock, VolumeDirectory)> {
    Ok(first(&Regions::plan(size, block_bytes, options)?, options))
}

fn first(plan: &Regions, options: &FormatOptions) -> (Superblock, VolumeDirectory) {
    let [low, high, ..] = options.seed;
    let volume = u16::from_le_bytes([low, high]).max(1);
    let mut superblock = Superblock {
        sequence: 1,
        predecessor: 0,
        identity: options.uuid,
        seed: options.seed,
        cluster: [0; 16],
        host: 0,
        store: options.uuid,
        compatible: 0,
        read_only_compatible: 0,
        incompatible: 0,
        size: plan.size,
        logical_block: plan.block_bytes,
        segment_bytes: plan.segment_bytes,
        ring_offset: plan.ring_offset,
        ring_bytes: plan.ring_bytes,
        area_a: plan.area_a,
        area_b: plan.area_b,
        area_slot_bytes: plan.area_slot_bytes,
        segments_offset: plan.segments_offset,
        containers: plan.containers,
        directory_crc: 0,
        directory_bytes: 0,
        system_slot: 1,
        barrier: Barrier::Flush,
        device_cache: 0,
        errors: false,
        // Nothing is stamped before the first mount, which raises it.
        hlc_bound: wall_hlc(options.now_ns),
        format_ns: options.now_ns,
        label: [0; 64],
    };
    superblock.set_label(&options.label);
    let blocks = plan.ring_bytes / u64::from(plan.block_bytes);
    let entry = VolumeEntry {
        volume,
        role: Role::Writer,
        uuid: options.uuid,
        promised_epoch: 1,
        writer_epoch: 1,
        config_version: 0,
        ring: [(plan.ring_offset, plan.ring_bytes), (0, 0), (0, 0), (0, 0)],
        ring_generation: 0,
        checkpoint: PublishedCheckpoint::default(),
        // Block 0 never holds sequence 0: a cut before the first block needs a sequence.
        start: StartPosition { generation: 0, sequence: 1, offset: 0, ring_block: 1 % blocks.max(1) },
        cuts: Vec::new(),
        client: ClientTag::UNNAMED,
        roots: None,
        roots_twin: None,
        drop_queue: Place::NONE,
        orphaned_segments: Place::NONE,
        history: Place::NONE,
        unreadable: Place::NONE,
        bounds: Bounds { segment: 1, inode: 1, realm: 1, territory: 1, pin: 1 },
        merged_through: 0,
        checkpoint_hlc: Hlc::ZERO,
        totals: Totals::default(),
    };
    let table = vec![ContainerRow::FREE; plan.containers as usize];
    (superblock, VolumeDirectory { sequence: 1, entry, table })
}

fn zero(device: &dyn Device, offset: u64, bytes: u64, written: &mut dyn FnMut(u64)) -> Result<()> {
    let buffer = Arc::new(AlignedBuf::zeroed(1 << 20));
    let mut tickets = Vec::new();
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(MIB);
        let range = 0..usize::try_from(length).unwrap_or(0);
        tickets.push(device.submit(Write::part(offset + done, Arc::clone(&buffer), range)));
        done += length;
        if tickets.len() >= 16 {
            tickets.drain(..).try_for_each(|ticket| ticket.wait())?;
        }
        written(length);
    }
    Ok(tickets.iter().try_for_each(|ticket| ticket.wait())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> FormatOptions {
        FormatOptions {
            label: "x".into(),
            uuid: [1; 16],
            seed: [2; 16],
            now_ns: 0,
            wal_bytes: None,
            segment_bytes: None,
            force: false,
            small: false,
        }
    }

    #[test]
    fn geometry_agrees_with_the_design_table_and_regions_do_not_overlap() {
        for (size, segment, ring) in
            [(256, 1, 8), (512, 2, 16), (2048, 4, 64), (10 * 1024, 4, 256 + 64), (100 * 1024, 16, 1024)]
        {
            let plan = Regions::plan(size * MIB, 4096, &options()).unwrap();
            assert_eq!(u64::from(plan.segment_bytes), segment * MIB, "{size} MiB");
            assert_eq!(plan.ring_bytes, ring * MIB, "{size} MiB");
            assert!(plan.area_a + 2 * plan.area_slot_bytes <= plan.segments_offset);
            assert_eq!(plan.area_b, plan.segments_offset + u64::from(plan.containers) * segment * MIB);
            assert!(plan.area_b + 2 * plan.area_slot_bytes <= plan.size - 8192);
            assert!(
                plan.size - 8192 - plan.area_b - 2 * plan.area_slot_bytes < segment * MIB + MIB,
                "{size} MiB wastes space"
            );
        }
    }

    #[test]
    fn the_document_of_the_format_says_how_large_segments_are() {
        let document = include_str!("../../docs/on-disk-format.md");
        let steps = [(1, 384, "384 MiB"), (2, 1024, "1 GiB"), (4, 32 * 1024, "32 GiB")];
        let said: Vec<String> = steps.iter().map(|(mib, _, below)| format!("{mib} MiB below {below}")).collect();
        let said = said.join(", ").replacen("MiB below", "MiB in stores below", 1);
        assert!(document.contains(&format!("Segments are {said}, else 16 MiB;")), "{said}");
        let of = |size: u64| u64::from(Regions::plan(size * MIB, 4096, &options()).unwrap().segment_bytes) / MIB;
        for (index, (mib, below, _)) in steps.iter().enumerate() {
            let next = steps.get(index + 1).map_or(16, |next| next.0);
            assert_eq!((of(below - 1), of(*below)), (*mib, next), "about {below} MiB");
        }
    }

    #[test]
    fn too_small_devices_and_odd_segments_are_refused() {
        assert!(Regions::plan(127 * MIB, 4096, &options()).is_err());
        assert!(Regions::plan(8 * MIB, 512, &options()).is_err());
        let small = FormatOptions { small: true, wal_bytes: Some(MIB), segment_bytes: Some(256 << 10), ..options() };
        assert!(Regions::plan(8 * MIB, 512, &small).is_ok());
        assert!(Regions::plan(7 * MIB, 512, &small).is_err());
        assert!(Regions::plan(256 * MIB, 512, &FormatOptions { segment_bytes: Some(3 << 20), ..options() }).is_err());
    }

    #[test]
    fn a_log_too_short_for_checkpoints_or_too_long_for_the_store_is_refused() {
        let wal = |size: u64, wal: u64| {
            Regions::plan(size * MIB, 4096, &FormatOptions { wal_bytes: Some(wal * MIB), ..options() })
        };
        assert!(wal(256, 3).is_err() && wal(256, 4).is_ok());
        assert!(wal(256, 129).is_err() && wal(256, 128).is_ok());
        let many_segments = FormatOptions { wal_bytes: Some(4 * MIB), segment_bytes: Some(1 << 20), ..options() };
        let error = Regions::plan(100 * GIB, 4096, &many_segments).unwrap_err();
        assert!(error.to_string().contains("it can have"), "{error}");
    }

    /// A number of steps that grew with the size would not end here.
    #[test]
    fn a_size_beyond_any_device_is_planned_at_once() {
        let plan = Regions::plan(7_000_000 << 40, 512, &options()).unwrap();
        assert!(plan.area_b + 2 * plan.area_slot_bytes <= plan.size - 8192 && plan.containers > 1 << 20);
    }

    #[test]
    fn every_size_and_segment_that_is_accepted_leaves_room_for_files() {
        for size in [128, 129, 200, 256, 384, 500, 1024, 5000, 8192, 100 * 1024] {
            for segment in [1, 2, 4, 8, 16] {
                let options = FormatOptions { segment_bytes: Some(segment << 20), ..options() };
                let Ok(regions) = Regions::plan(size * MIB + 4096, 512, &options) else { continue };
                let capacity = u64::from(regions.containers) * u64::from(regions.segment_bytes);
                assert!(capacity > regions.reserve_bytes, "{size} MiB, {segment} MiB");
                assert!(regions.segments_offset.is_multiple_of(4096));
            }
        }
    }
}
