//! The verdict over a store after a device that lied: what is shown is a prefix, right or an error of its object, and who does not show everything is told why, with a place that
//! does not hold what the device said it holds.

use crate::StoreError;
use crate::client::clock;
use crate::device::{Device, DeviceImage, SECTOR_BYTES, SimulatedDevice};
use crate::mini::Mini;
use crate::store::Store as _;
use envoyfs_engine::superblock;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::Block;
use std::sync::Arc;

/// What a mount says of records that a completed flush covered.
pub const LOST: &str = "the device lost what a completed flush covered";

/// Largest structure of the stores here: what is wrong in it lies so near to where it begins.
const STRUCTURE_BYTES: u64 = 64 << 10;

/// How far the log says of itself that it was durable: the largest watermark in any block of the generation that is published, read here once more with the layout's own decoder.
/// Nothing if no version of the store can be opened.
fn witnessed(image: &DeviceImage) -> Lsn {
    let device = SimulatedDevice::from_image(image.clone(), 512, 2);
    let Ok(opened) = superblock::open(&device) else { return Lsn(0) };
    let Ok(directory) = superblock::read_directory(&device, &opened.superblock) else { return Lsn(0) };
    let (entry, ring) = (&directory.entry, RingGeometry::of(&opened.superblock, &directory.entry));
    let mut bytes = vec![0; ring.block_bytes as usize];
    let mut witnessed = entry.cuts.last().map_or(Lsn(0), |cut| cut.lsn).max(entry.checkpoint.freeze);
    for sequence in entry.start.sequence..entry.start.sequence + ring.blocks {
        image.read(ring.position(sequence), &mut bytes);
        let Ok(block) = Block::decode(&bytes, &ring.seed, ring.position(sequence)) else { continue };
        let header = block.header;
        if (header.volume, header.sequence, header.generation) == (ring.volume, sequence, entry.ring_generation) {
            witnessed = witnessed.max(header.durable);
        }
    }
    witnessed
}

/// What a mount of it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything acknowledged is there.
    Whole,
    /// Every name is there; what some hold is an error of their object.
    Damaged,
    /// The mount says what is wrong, and takes no writes.
    Told,
    /// Acknowledged operations are gone, and nothing that is left tells of them.
    WentBack,
}

/// What became of it, with so many operations acknowledged. `claimed` is what the device said that it holds.
///
/// # Panics
/// If it is wrong and nobody says so, or who is blamed did nothing.
#[must_use]
pub fn never_silently_wrong(image: &DeviceImage, claimed: &DeviceImage, acknowledged: usize, what: &str) -> Outcome {
    let witnessed = witnessed(image);
    let device: Arc<dyn Device> = Arc::new(SimulatedDevice::from_image(image.clone(), 512, 2));
    let mini = match Mini::open(device, &clock()) {
        Ok(mini) => mini,
        // What a superblock, or the roots that it names, lead to.
        Err(error @ (StoreError::Refused(_) | StoreError::Structure { .. } | StoreError::Damaged { .. })) => {
            attributed(&error.to_string(), image, claimed, what);
            return Outcome::Told;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let keys = mini.keys();
    assert!(keys.iter().copied().eq(0..keys.len() as u64), "{what}: {keys:?} is no prefix");
    let mut damaged = 0;
    for key in keys.iter().copied() {
        if let Err(why) = mini.read(key, &mini.file(key)) {
            assert!(why.contains("object ") && !why.contains("other bytes"), "{what}: {why}");
            attributed(&why, image, claimed, what);
            damaged += 1;
        }
    }
    let why = mini.engine.read_only();
    if !why.is_empty() {
        attributed(why, image, claimed, what);
        return Outcome::Told;
    }
    let end = mini.engine.end();
    assert!(
        end >= witnessed,
        "{what}: cut at {end:?} without a word, though the log says that it was durable to {witnessed:?}"
    );
    if keys.len() < acknowledged {
        Outcome::WentBack
    } else if damaged > 0 {
        Outcome::Damaged
    } else {
        Outcome::Whole
    }
}

/// A place is named, and it does not hold what the device said.
fn attributed(why: &str, image: &DeviceImage, claimed: &DeviceImage, what: &str) {
    let places = ["device offset ", "at ", " and "].iter().flat_map(|name| why.split(name).skip(1));
    let places: Vec<u64> = places
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok()))
        .collect();
    assert!(!places.is_empty(), "{what}: no place is named: {why}");
    assert!(places.iter().any(|place| differs(image, claimed, *place)), "{what}: nothing is wrong there: {why}");
}

fn differs(image: &DeviceImage, claimed: &DeviceImage, from: u64) -> bool {
    let (mut is, mut said) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
    let end = (from + STRUCTURE_BYTES).min(image.size_bytes());
    (from - from % 512..end).step_by(SECTOR_BYTES).any(|at| {
        image.read(at, &mut is);
        claimed.read(at, &mut said);
        is != said
    })
}
