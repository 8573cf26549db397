//! A small store on a device that is recorded and scripted, and the images that a power cut leaves of it.

use crate::device::{
    CrashImages, Device, DeviceImage, Recording, RecordingDevice, SECTOR_BYTES, SectorFate, SimulatedDevice,
};
use crate::history::{formatted, with_durable_writes, with_ring};
use crate::hlc::ManualClock;
use crate::mini::Mini;
use crate::scripted::ScriptedDevice;
use envoyfs_engine::superblock;
use envoyfs_layout::directory_page::{DirectoryPage, VolumeDirectory};
use envoyfs_layout::superblock::Superblock;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What lies at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// A copy of the superblock.
    Superblock,
    /// The log.
    Ring,
    /// Volume directory and segment table.
    Directory,
    /// Segments.
    Segments,
}

/// See the module.
pub struct Bench {
    base: DeviceImage,
    recording: Recording,
    /// What the engine is given.
    pub device: Arc<ScriptedDevice>,
    /// The device below.
    pub simulated: SimulatedDevice,
    /// Time.
    pub clock: Arc<ManualClock>,
    superblock: Superblock,
}

impl Bench {
    /// A formatted store of 8 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::of(8, false)
    }

    /// Of so many MiB; with `slow`, writes complete late and in any order.
    #[must_use]
    pub fn of(mib: u64, slow: bool) -> Self {
        Self::on(formatted(mib, 512, 1).durable_image(), slow)
    }

    /// Of 32 MiB, with a ring of 128 KiB.
    #[must_use]
    pub fn of_short_ring() -> Self {
        Self::on(with_ring(32, 128 << 10).durable_image(), false)
    }

    /// Of 8 MiB, whose log and small data are written durably.
    #[must_use]
    pub fn durable() -> Self {
        Self::on(with_durable_writes(formatted(8, 512, 1)).durable_image(), false)
    }

    /// A store that somebody left.
    #[must_use]
    pub fn on(base: DeviceImage, slow: bool) -> Self {
        let simulated = SimulatedDevice::from_image(base.clone(), 512, 1).slow(slow);
        let superblock = superblock::open(&simulated).expect("a store").superblock;
        let recorded = RecordingDevice::new(simulated.clone());
        let recording = recorded.recording();
        let device = ScriptedDevice::new(Arc::new(recorded));
        Self { base, recording, device, simulated, clock: crate::client::clock(), superblock }
    }

    /// Mounts it.
    #[must_use]
    pub fn mount(&self) -> Arc<Mini> {
        let device: Arc<dyn Device> = Arc::<ScriptedDevice>::clone(&self.device);
        Arc::new(Mini::open(device, &self.clock).expect("it mounts"))
    }

    /// What lies at an offset.
    #[must_use]
    pub fn region(&self, offset: u64) -> Region {
        region(&self.superblock, offset)
    }

    /// The same, to be asked from a callback.
    pub fn regions(&self) -> impl Fn(u64) -> Region + Send + Sync + 'static {
        let superblock = self.superblock.clone();
        move |offset| region(&superblock, offset)
    }

    /// Is it in one of the four places of a whole segment table?
    #[must_use]
    pub fn is_table(&self, offset: u64) -> bool {
        let room = self.superblock.area_slot_bytes - DirectoryPage::bytes_max(self.superblock.containers);
        let at = [0, 1].map(|slot| self.superblock.table_positions(slot));
        at.into_iter().flatten().any(|at| (at..at + room).contains(&offset))
    }

    /// What rules in an image, and where containers lie.
    #[must_use]
    pub fn ruling(image: &DeviceImage) -> (Superblock, VolumeDirectory) {
        let device = SimulatedDevice::from_image(image.clone(), 512, 3);
        let superblock = superblock::open(&device).expect("a store").superblock;
        let directory = superblock::read_directory(&device, &superblock).expect("its directory");
        (superblock, directory)
    }

    /// Segments whose home is a container, and the byte offsets of their pages, as the store published them last.
    #[must_use]
    pub fn pages_of_segments(image: &DeviceImage) -> Vec<(u32, u64)> {
        let (superblock, directory) = Self::ruling(image);
        let start =
            |container: u32| superblock.segments_offset + u64::from(container) * u64::from(superblock.segment_bytes);
        let pages = directory.table.iter().filter(|row| !row.metadata.is_none());
        pages.map(|row| (row.segment, start(row.metadata.container) + u64::from(row.metadata.units) * 512)).collect()
    }

    /// Positions of the copies of the superblock.
    #[must_use]
    pub fn copies(&self) -> [u64; 4] {
        Superblock::positions(self.superblock.size)
    }

    /// Events so far: where a cut may be.
    #[must_use]
    pub fn now(&self) -> usize {
        self.recording.len()
    }

    /// The log of the device, to be asked from a callback.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.recording.clone()
    }

    /// The images of its cuts.
    #[must_use]
    pub fn images(&self) -> CrashImages {
        CrashImages::new(self.base.clone(), &self.recording).expect("in memory")
    }

    /// What a cut now leaves if nothing un-flushed survives.
    #[must_use]
    pub fn cut(&self) -> DeviceImage {
        self.images().at_with(usize::MAX, |_| SectorFate::Gone)
    }

    /// A cut at a place, with a fate for each region.
    #[must_use]
    pub fn cut_at(&self, position: usize, mut fate: impl FnMut(Region) -> SectorFate) -> DeviceImage {
        self.images().at_with(position, |at| fate(self.region(at)))
    }

    /// Sectors at risk at a place.
    #[must_use]
    pub fn at_risk(&self, position: usize) -> BTreeSet<u64> {
        let mut sectors = BTreeSet::new();
        let _ = self.images().at_with(position, |at| {
            sectors.insert(at - at % SECTOR_BYTES as u64);
            SectorFate::Gone
        });
        sectors
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// Mounts what a cut left, and reads all of it.
///
/// # Panics
/// If it does not mount, not for writing, or something in it does not verify.
#[must_use]
pub fn recover(image: &DeviceImage) -> Mini {
    let device = Arc::new(SimulatedDevice::from_image(image.clone(), 512, 2));
    let mini = Mini::open(device, &crate::client::clock()).unwrap_or_else(|error| panic!("after the cut: {error}"));
    assert_eq!(mini.engine.read_only(), "", "after the cut");
    mini.verify();
    mini
}

fn region(s: &Superblock, offset: u64) -> Region {
    let copies = Superblock::positions(s.size);
    if copies.iter().any(|at| (*at..at + 4096).contains(&offset)) {
        Region::Superblock
    } else if (s.ring_offset..s.ring_offset + s.ring_bytes).contains(&offset) {
        Region::Ring
    } else if (s.segments_offset..s.segments_offset + u64::from(s.containers) * u64::from(s.segment_bytes))
        .contains(&offset)
    {
        Region::Segments
    } else {
        Region::Directory
    }
}
