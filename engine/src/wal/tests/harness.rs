//! A store with nothing but superblock, directory and log, and the oracle of what it must recover.

use crate::device::{AlignedBuf, Device, DeviceError, SimulatedDevice, Ticket, Write};
use crate::hlc::{HlcSource, ManualClock, next_bound};
use crate::store::{DataObject, Result};
use crate::superblock::{self, PublishedTable};
use crate::wal::recovery::{Found, FoundRecord, Judge, Verdict, scan};
use crate::wal::{Config, FreezePoint, LogRoom, NewRecord, Position, RingGeometry, Wal, advance_start, publish_cut};
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, Place, PublishedCheckpoint, Role, StartPosition, Totals, VolumeDirectory, VolumeEntry,
};
use envoyfs_layout::superblock::{Barrier, LABEL_BYTES, Superblock};
use envoyfs_layout::wal::{CheckpointBody, Relocated, SegmentPlaced, SegmentSealed, kind};
use envoyfs_layout::{Encoding, Hlc, Lsn, Oid, Reference, ReferenceKind, checksum};
use std::sync::Arc;

pub const NOW: i64 = 1_700_000_000_000_000_000;
pub const BLOCK: u32 = 512;
pub const DATA_AT: u64 = 4 << 20;
pub const DEVICE_BYTES: u64 = 40 << 20;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What was appended, as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub start: Lsn,
    pub end: Lsn,
    pub kind: u16,
    pub body: Vec<u8>,
    pub data: Vec<DataObject>,
}

/// The truth outside the device.
#[derive(Default)]
pub struct Oracle {
    pub history: Vec<Entry>,
    /// Everything before this was acknowledged.
    pub acknowledged: Lsn,
    pub next_id: u64,
    pub next_slot: u16,
    pub last_hlc: Hlc,
}

fn reference(kind: ReferenceKind) -> Reference {
    Reference {
        oid: Oid::new(1, 1, 8),
        birth: Hlc(1),
        stored_bytes: 512,
        logical_bytes: 8,
        crc: 0,
        kind,
        flags: 0,
        encoding: Encoding::Plain,
    }
}

/// A CHECKPOINT record of this freeze.
pub fn checkpoint_body(number: u64, freeze: &FreezePoint) -> CheckpointBody {
    CheckpointBody {
        number,
        freeze: freeze.lsn,
        stream_hash: 0,
        merged_through: 0,
        bounds: Bounds::default(),
        history_floor: 0,
        drop_position: 0,
        hlc: freeze.hlc,
        roots: reference(ReferenceKind::Roots),
        roots_twin: reference(ReferenceKind::Roots),
        batch: vec![],
    }
}

/// Makes a store whose ring has so many blocks (a multiple of 8, of 512 bytes).
pub fn make(ring_blocks: u64, seed: u64) -> SimulatedDevice {
    make_of(DEVICE_BYTES, ring_blocks, seed)
}

/// On a device of so many bytes. With a ring that reaches beyond [`DATA_AT`], no data.
pub fn make_of(size: u64, ring_blocks: u64, seed: u64) -> SimulatedDevice {
    let device = SimulatedDevice::new(size, BLOCK, seed);
    let mut first = Superblock {
        sequence: 1,
        predecessor: 0,
        identity: [1; 16],
        seed: [2; 16],
        cluster: [0; 16],
        host: 0,
        store: [3; 16],
        compatible: 0,
        read_only_compatible: 0,
        incompatible: 0,
        size,
        logical_block: BLOCK,
        segment_bytes: 1 << 20,
        ring_offset: 65536,
        ring_bytes: ring_blocks * u64::from(BLOCK),
        area_a: 65536 + ring_blocks * u64::from(BLOCK),
        area_b: size - (2 << 20),
        area_slot_bytes: 8 << 10,
        segments_offset: DATA_AT.max(65536 + ring_blocks * u64::from(BLOCK) + (16 << 10)),
        containers: 1,
        directory_crc: 0,
        directory_bytes: 0,
        system_slot: 1,
        barrier: Barrier::Flush,
        device_cache: 0,
        errors: false,
        hlc_bound: Hlc(0),
        format_ns: 0,
        label: [0; LABEL_BYTES],
    };
    let entry = VolumeEntry {
        volume: 1,
        role: Role::Writer,
        uuid: [4; 16],
        promised_epoch: 1,
        writer_epoch: 1,
        config_version: 0,
        ring: [(65536, first.ring_bytes), (0, 0), (0, 0), (0, 0)],
        ring_generation: 0,
        checkpoint: PublishedCheckpoint::default(),
        start: StartPosition { sequence: 1, ..StartPosition::default() },
        cuts: vec![],
        client: envoyfs_layout::ClientTag::UNNAMED,
        roots: None,
        roots_twin: None,
        drop_queue: Place::NONE,
        orphaned_segments: Place::NONE,
        history: Place::NONE,
        unreadable: Place::NONE,
        bounds: Bounds::default(),
        merged_through: 0,
        checkpoint_hlc: Hlc(0),
        totals: Totals::default(),
    };
    let mut directory = VolumeDirectory { sequence: 0, entry, table: vec![ContainerRow::FREE] };
    superblock::write_directory(&device, &mut first, &mut directory, &mut PublishedTable::default()).unwrap();
    superblock::format(&device, &first).unwrap();
    device
}

/// Reads the data that records name.
pub struct DeviceJudge<'a> {
    pub device: &'a SimulatedDevice,
    pub verified: usize,
}

impl Judge for DeviceJudge<'_> {
    fn placed(&mut self, placed: SegmentPlaced) {
        assert_eq!(placed.number, placed.container + 1);
    }
    fn relocated(&mut self, _: Relocated) {}
    fn record(&mut self, _: &FoundRecord) {}
    fn verify(&mut self, object: &DataObject) -> Verdict {
        self.verified += 1;
        let mut buf = AlignedBuf::zeroed(512);
        match self.device.read(DATA_AT + u64::from(object.oid.slot()) * 512, &mut buf) {
            Err(DeviceError::Io { .. }) => Verdict::Unreadable,
            _ => Verdict::of(data_verifies(self.device, object)),
        }
    }
}

pub fn data_verifies(device: &SimulatedDevice, object: &DataObject) -> bool {
    let mut buf = AlignedBuf::zeroed(512);
    device.read(DATA_AT + u64::from(object.oid.slot()) * 512, &mut buf).is_ok()
        && object.crcs == [checksum::crc32c(buf.as_slice())]
}

/// A mounted store.
pub struct Mounted {
    pub device: SimulatedDevice,
    pub clock: Arc<ManualClock>,
    pub superblock: Superblock,
    pub directory: VolumeDirectory,
    pub wal: Arc<Wal>,
    pub found: Found,
    pub must_checkpoint: bool,
}

/// Reads only: what a mount would find.
pub fn look(device: &SimulatedDevice) -> Result<(superblock::Opened, VolumeDirectory, Found)> {
    device.flush()?;
    let opened = superblock::open(device).expect("the superblock opens");
    let directory = superblock::read_directory(device, &opened.superblock).expect("a directory reads");
    let ring = RingGeometry::of(&opened.superblock, &directory.entry);
    let found = scan(device, &ring, &directory.entry, &mut DeviceJudge { device, verified: 0 })?;
    Ok((opened, directory, found))
}

/// Mounts at [`NOW`].
pub fn mount(device: SimulatedDevice) -> Result<Mounted> {
    mount_at(device, NOW)
}

/// With groups that flush.
pub fn mount_at(device: SimulatedDevice, wall_ns: i64) -> Result<Mounted> {
    mount_with(device, wall_ns, false)
}

/// Going on without what was durable and is damaged.
pub fn mount_accepting(device: SimulatedDevice, wall_ns: i64) -> Result<Mounted> {
    recover(device, wall_ns, false, true)
}

/// `durable_writes`: as in [`Config`].
pub fn mount_with(device: SimulatedDevice, wall_ns: i64, durable_writes: bool) -> Result<Mounted> {
    recover(device, wall_ns, durable_writes, false)
}

/// Recovery in the order of DESIGN 6.
fn recover(device: SimulatedDevice, wall_ns: i64, durable_writes: bool, accept_loss: bool) -> Result<Mounted> {
    device.flush()?;
    let opened = match superblock::open(&device) {
        Ok(opened) => opened,
        Err(superblock::OpenError::Device(error)) => return Err(error.into()),
        Err(error) => panic!("{error}"),
    };
    let mut directory = match superblock::read_directory(&device, &opened.superblock) {
        Ok(directory) => directory,
        Err(superblock::OpenError::Device(error)) => return Err(error.into()),
        Err(error) => panic!("{error}"),
    };
    let ring = RingGeometry::of(&opened.superblock, &directory.entry);
    let found = scan(&device, &ring, &directory.entry, &mut DeviceJudge { device: &device, verified: 0 })?;
    if let Some(corruption) = found.corrupt.as_ref().filter(|_| !accept_loss) {
        panic!("corruption without a fault: {corruption}");
    }
    superblock::repair(&device, &opened)?;
    let next = publish_cut(&mut directory.entry, &found, found.adopted.as_ref()).expect("the cut list has room");
    let mut superblock = opened.superblock.next();
    superblock.hlc_bound = next_bound(wall_ns, found.max_hlc);
    superblock::write_directory(&device, &mut superblock, &mut directory, &mut PublishedTable::default())?;
    device.flush()?;
    superblock::publish(&device, &superblock)?;
    let clock = Arc::new(ManualClock::new(wall_ns));
    let (hlc, _) = HlcSource::after_recovery(
        wall_ns,
        found.max_hlc.max(directory.entry.checkpoint_hlc),
        opened.superblock.hlc_bound,
        found.closed.is_some(),
    );
    let config = Config { ring, writer_epoch: 1, checkpoint_blocks: 1, seal_blocks: 1, durable_writes };
    let wal = Wal::new(
        Arc::new(device.clone()),
        clock.clone(),
        config,
        found.resume(&directory.entry, hlc),
        crate::metrics::Metrics::new(clock.clone()),
    );
    let must_checkpoint = next.checkpoint_before_serving;
    Ok(Mounted { device, clock, superblock, directory, wal, found, must_checkpoint })
}

impl Oracle {
    /// What was recovered is a prefix with everything acknowledged. From here on the history is that prefix.
    pub fn check(&mut self, found: &Found) {
        let cut = found.cut.lsn;
        assert!(cut >= self.acknowledged, "acknowledged up to {:?}, recovered {cut:?}", self.acknowledged);
        if let Some(first) = found.records.first() {
            let at =
                self.history.iter().position(|entry| entry.start == first.start).expect("a record that was appended");
            for (found, appended) in found.records.iter().zip(&self.history[at..]) {
                assert_eq!(
                    (found.start, found.end, found.kind, &found.body),
                    (appended.start, appended.end, appended.kind, &appended.body)
                );
                assert_eq!(found.data, appended.data);
            }
            assert!(found.records.len() <= self.history.len() - at);
            assert_eq!(found.records.last().unwrap().end, cut);
        }
        self.history.retain(|entry| entry.start < cut);
        assert!(self.history.last().is_none_or(|last| last.end == cut), "the cut is between two records");
        assert!(found.records.windows(2).all(|pair| pair[0].hlc < pair[1].hlc), "INV-40");
    }

    /// The data of what was recovered is there.
    pub fn check_data(&self, device: &SimulatedDevice) {
        for entry in self.history.iter().rev().take(300) {
            assert!(entry.data.iter().all(|object| data_verifies(device, object)), "INV-18: data of {:?}", entry.start);
        }
    }

    /// A mount seals only what was opened since the last seal: one that appended always would eat up the reserve, crash by crash.
    pub fn has_open_segment(&self) -> bool {
        let relevant = |entry: &&Entry| entry.kind != kind::CHECKPOINT;
        self.history.iter().rev().find(relevant).is_some_and(|entry| entry.kind != kind::SEGMENT_SEALED)
    }

    pub fn acknowledge(&mut self, lsn: Lsn) {
        self.acknowledged = self.acknowledged.max(lsn);
    }
}

impl Mounted {
    /// Appends a client record with a body of so many bytes and, if asked, a data object whose write is under way.
    pub fn put(
        &self,
        oracle: &mut Oracle,
        room: &mut LogRoom,
        bytes: usize,
        with_data: bool,
    ) -> Result<(Position, Option<Ticket>)> {
        oracle.next_id += 1;
        let mut body = oracle.next_id.to_le_bytes().to_vec();
        body.resize(bytes.max(8), 0xb0);
        let (mut data, mut writes) = (vec![], vec![]);
        if with_data {
            oracle.next_slot += 1;
            let mut buf = AlignedBuf::zeroed(512);
            buf.as_mut_slice()[..8].copy_from_slice(&oracle.next_id.to_le_bytes());
            let crcs = vec![checksum::crc32c(buf.as_slice())];
            data.push(DataObject { oid: Oid::new(1, 1, oracle.next_slot), extends: None, stored_bytes: 512, crcs });
            let write = Write::whole(DATA_AT + u64::from(oracle.next_slot) * 512, buf);
            // Every third object is bulk: not durable by itself.
            let durable = self.wal.writes_durably() && !oracle.next_id.is_multiple_of(3);
            writes.push(if durable {
                self.device.submit(write.durable()).durable()
            } else {
                self.device.submit(write)
            });
        }
        let record = NewRecord {
            kind: 256,
            territory: 1,
            ignorable: false,
            origin: None,
            data: &data,
            writes: &writes,
            body: &body,
        };
        let position = self.wal.append(room, record)?;
        assert!(position.hlc > oracle.last_hlc && position.hlc.0 % 2 == 0, "INV-01");
        oracle.last_hlc = position.hlc;
        oracle.history.push(Entry { start: position.start, end: position.end, kind: 256, body, data });
        Ok((position, writes.pop()))
    }

    pub fn internal(&self, oracle: &mut Oracle, kind: u16, body: &[u8]) -> Result<Position> {
        let position = self.wal.append_internal(NewRecord::engine(kind, body))?;
        oracle.last_hlc = position.hlc;
        oracle.history.push(Entry {
            start: position.start,
            end: position.end,
            kind,
            body: body.to_vec(),
            data: vec![],
        });
        Ok(position)
    }

    pub fn seal(&self, oracle: &mut Oracle) -> Result<Position> {
        oracle.next_id += 1;
        let body = SegmentSealed { number: 1, length: 0, digest: oracle.next_id };
        self.internal(oracle, kind::SEGMENT_SEALED, &body.encode())
    }

    /// A whole checkpoint in the order of decision 0002. `between` runs after the freeze, and again just before the CHECKPOINT record.
    pub fn checkpoint(&mut self, oracle: &mut Oracle, between: &mut dyn FnMut(&Mounted, &mut Oracle)) -> Result<()> {
        let freeze = self.wal.freeze();
        between(self, oracle);
        self.wal.wait_data(freeze.lsn)?;
        self.wal.barrier()?;
        between(self, oracle);
        let number = self.directory.entry.checkpoint.number + 1;
        let body = checkpoint_body(number, &freeze);
        let record = self.internal(oracle, kind::CHECKPOINT, &body.encode())?;
        self.wal.frame()?;
        let start = self.wal.start_of(freeze.lsn).expect("the freeze LSN is in a block");
        let mut directory = self.directory.clone();
        directory.entry.checkpoint =
            PublishedCheckpoint { record: record.start, epoch: 1, freeze: freeze.lsn, stream_hash: 0, number };
        directory.entry.checkpoint_hlc = freeze.hlc;
        advance_start(&mut directory.entry, start);
        let mut superblock = self.superblock.next();
        superblock::write_directory(&self.device, &mut superblock, &mut directory, &mut PublishedTable::default())?;
        self.wal.barrier()?;
        oracle.acknowledge(record.end);
        superblock::publish(&self.device, &superblock)?;
        self.wal.published(&start);
        (self.superblock, self.directory) = (superblock, directory);
        Ok(())
    }

    pub fn commit(&self, oracle: &mut Oracle, lsn: Lsn) -> Result<()> {
        self.wal.commit(lsn)?;
        oracle.acknowledge(lsn);
        Ok(())
    }
}
