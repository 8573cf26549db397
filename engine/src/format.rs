//! Making a store: geometry, empty ring and system areas, the first checkpoint.
//!
//! If power fails before the superblocks are written there is no store; a half-made one does not open.

use crate::StoreError;
use crate::device::{AlignedBuf, Device, Write};
use crate::hlc::next_bound;
use crate::space::admission::Budget;
use crate::store::Result;
use crate::superblock::{self, foreign_signature, looks_like_a_store};
use envoyfs_layout::Hlc;
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, Place, PublishedCheckpoint, Role, StartPosition, Totals, VolumeDirectory, VolumeEntry,
};
use envoyfs_layout::superblock::Superblock;
use std::sync::Arc;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Smallest store.
pub const SIZE_MIN: u64 = 128 * MIB;
/// Smallest store for simulation.
pub const SIZE_MIN_SIMULATED: u64 = 8 * MIB;
const RING_OFFSET: u64 = 64 * KIB;

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
}

/// Where the regions lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    size: u64,
    block_bytes: u32,
    segment_bytes: u32,
    ring_bytes: u64,
    area_a: u64,
    area_b: u64,
    area_slot_bytes: u64,
    segments_offset: u64,
    containers: u32,
}

fn plan(size: u64, block_bytes: u32, options: &FormatOptions) -> Result<Plan> {
    let size = size & !4095;
    let refused = |why: String| StoreError::Refused(why);
    let least = if options.small { SIZE_MIN_SIMULATED } else { SIZE_MIN };
    if size < least {
        return Err(refused(format!("the device has {} MiB; a store needs at least {} MiB", size / MIB, least / MIB)));
    }
    let by_size = match size {
        s if s < 384 * MIB => MIB,
        s if s < GIB => 2 * MIB,
        s if s < 8 * GIB => 4 * MIB,
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
    let ring_bytes = options.wal_bytes.unwrap_or_else(|| (size / 32).clamp(8 * MIB, GIB)) & !4095;
    let area_a = RING_OFFSET + ring_bytes;
    let end = size - 2 * 4096;
    let align = segment.min(MIB);
    let fits = |containers: u64| {
        let slot = VolumeDirectory::bytes(u32::try_from(containers).ok()?).next_multiple_of(4096);
        let segments_offset = (area_a + 2 * slot).next_multiple_of(align);
        let area_b = segments_offset.checked_add(containers.checked_mul(segment)?)?;
        (area_b + 2 * slot <= end).then_some((slot, segments_offset, area_b))
    };
    let mut containers = end.saturating_sub(area_a) / segment;
    while containers > 0 && fits(containers).is_none() {
        containers -= 1;
    }
    let budget = Budget::new(size, u32::try_from(segment).unwrap_or(u32::MAX));
    let too_small = || {
        refused(format!(
            "a log of {} MiB and segments of {} KiB leave no room for files",
            ring_bytes / MIB,
            segment / KIB
        ))
    };
    let (area_slot_bytes, segments_offset, area_b) = fits(containers).ok_or_else(too_small)?;
    if ring_bytes < 128 * KIB || containers * budget.container_bytes <= budget.reserve + 2 * segment {
        return Err(too_small());
    }
    Ok(Plan {
        size,
        block_bytes,
        segment_bytes: u32::try_from(segment).unwrap_or(u32::MAX),
        ring_bytes,
        area_a,
        area_b,
        area_slot_bytes,
        segments_offset,
        containers: u32::try_from(containers).unwrap_or(u32::MAX),
    })
}

/// Makes a store. Destroys what the device held.
pub fn format(device: &dyn Device, options: &FormatOptions) -> Result<Made> {
    let geometry = device.geometry();
    let plan = plan(geometry.size_bytes, geometry.logical_block_bytes.max(512), options)?;
    if !options.force {
        let mut head = AlignedBuf::zeroed(128 << 10);
        device.read(0, &mut head)?;
        let holds = if looks_like_a_store(head.as_slice()) {
            Some("an envoyfs store")
        } else {
            foreign_signature(head.as_slice())
        };
        if let Some(what) = holds {
            return Err(StoreError::Refused(format!("{} holds {what}; use --force to overwrite it", device.label())));
        }
    }
    // An fsync on an image file must not have to allocate or convert extents of the file system below.
    let areas = 2 * plan.area_slot_bytes;
    let mut zeroed = vec![(0, RING_OFFSET), (plan.size - 2 * 4096, 2 * 4096)];
    if !geometry.is_block_device {
        zeroed.extend([(RING_OFFSET, plan.ring_bytes), (plan.area_a, areas), (plan.area_b, areas)]);
    }
    for (offset, bytes) in zeroed {
        zero(device, offset, bytes)?;
    }
    let (superblock, mut directory) = first(&plan, options);
    let mut superblock = superblock;
    superblock::write_directory(device, &mut superblock, &mut directory)?;
    superblock::format(device, &superblock)?;
    let budget = Budget::new(plan.size, plan.segment_bytes);
    Ok(Made {
        size: plan.size,
        wal_bytes: plan.ring_bytes,
        segment_bytes: plan.segment_bytes,
        containers: plan.containers,
        capacity: u64::from(plan.containers) * u64::from(plan.segment_bytes),
        reserve: budget.reserve,
        volume: directory.entry.volume,
    })
}

fn first(plan: &Plan, options: &FormatOptions) -> (Superblock, VolumeDirectory) {
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
        ring_offset: RING_OFFSET,
        ring_bytes: plan.ring_bytes,
        area_a: plan.area_a,
        area_b: plan.area_b,
        area_slot_bytes: plan.area_slot_bytes,
        segments_offset: plan.segments_offset,
        containers: plan.containers,
        directory_crc: 0,
        directory_bytes: 0,
        system_slot: 1,
        hlc_bound: next_bound(options.now_ns, Hlc::ZERO),
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
        ring: [(RING_OFFSET, plan.ring_bytes), (0, 0), (0, 0), (0, 0)],
        ring_generation: 0,
        checkpoint: PublishedCheckpoint::default(),
        // Block 0 never holds sequence 0: a cut before the first block needs a sequence.
        start: StartPosition { generation: 0, sequence: 1, offset: 0, ring_block: 1 % blocks.max(1) },
        cuts: Vec::new(),
        roots: None,
        roots_twin: None,
        drop_queue: Place::NONE,
        orphaned_segments: Place::NONE,
        bounds: Bounds { segment: 1, inode: 1, realm: 1, territory: 1, pin: 1 },
        merged_through: 0,
        checkpoint_hlc: Hlc::ZERO,
        totals: Totals::default(),
    };
    let table = vec![ContainerRow::FREE; plan.containers as usize];
    (superblock, VolumeDirectory { sequence: 1, entry, table })
}

fn zero(device: &dyn Device, offset: u64, bytes: u64) -> Result<()> {
    let buffer = Arc::new(AlignedBuf::zeroed(1 << 20));
    let mut tickets = Vec::new();
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(MIB);
        let range = 0..usize::try_from(length).unwrap_or(0);
        tickets.push(device.submit(Write { offset: offset + done, buf: Arc::clone(&buffer), range }));
        done += length;
        if tickets.len() >= 16 {
            tickets.drain(..).try_for_each(|ticket| ticket.wait())?;
        }
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
            [(256, 1, 8), (512, 2, 16), (2048, 4, 64), (10 * 1024, 16, 256 + 64), (100 * 1024, 16, 1024)]
        {
            let plan = plan(size * MIB, 4096, &options()).unwrap();
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
    fn too_small_devices_and_odd_segments_are_refused() {
        assert!(plan(127 * MIB, 4096, &options()).is_err());
        assert!(plan(8 * MIB, 512, &options()).is_err());
        let small = FormatOptions { small: true, wal_bytes: Some(MIB), segment_bytes: Some(256 << 10), ..options() };
        assert!(plan(8 * MIB, 512, &small).is_ok());
        assert!(plan(7 * MIB, 512, &small).is_err());
        assert!(plan(256 * MIB, 512, &FormatOptions { segment_bytes: Some(3 << 20), ..options() }).is_err());
    }
}
