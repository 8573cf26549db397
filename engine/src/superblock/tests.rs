use super::*;
use crate::device::{Fault, SimulatedDevice};
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, Place, PublishedCheckpoint, Role, StartPosition, Totals, VolumeEntry,
};
use envoyfs_layout::superblock::{Barrier, LABEL_BYTES};
use envoyfs_layout::{Hlc, Lsn};

pub(super) fn first() -> Superblock {
    Superblock {
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
        size: 4 << 20,
        logical_block: 4096,
        segment_bytes: 1 << 16,
        ring_offset: 65536,
        ring_bytes: 1 << 20,
        area_a: 2 << 20,
        area_b: 3 << 20,
        area_slot_bytes: 64 << 10,
        segments_offset: (2 << 20) + (128 << 10),
        containers: 10,
        directory_crc: 0,
        directory_bytes: 0,
        system_slot: 1,
        barrier: Barrier::Flush,
        device_cache: 0,
        errors: false,
        hlc_bound: Hlc(0),
        format_ns: 0,
        label: [0; LABEL_BYTES],
    }
}

pub(super) fn directory() -> VolumeDirectory {
    VolumeDirectory {
        sequence: 0,
        entry: VolumeEntry {
            volume: 1,
            role: Role::Writer,
            uuid: [4; 16],
            promised_epoch: 1,
            writer_epoch: 1,
            config_version: 0,
            ring: [(65536, 1 << 20), (0, 0), (0, 0), (0, 0)],
            ring_generation: 0,
            checkpoint: PublishedCheckpoint { record: Lsn(0), ..PublishedCheckpoint::default() },
            start: StartPosition::default(),
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
        },
        table: vec![ContainerRow::FREE; 10],
    }
}

/// A formatted store, and the same store one publication later.
fn store() -> (SimulatedDevice, Superblock) {
    let device = SimulatedDevice::new(4 << 20, 4096, 1);
    let mut superblock = first();
    let mut directory = directory();
    write_directory(&device, &mut superblock, &mut directory, &mut PublishedTable::default()).unwrap();
    format(&device, &superblock).unwrap();
    (device, superblock)
}

fn publish_next(device: &SimulatedDevice, current: &Superblock, number: u64) -> Result<Superblock, DeviceError> {
    let mut next = current.next();
    let mut directory = directory();
    directory.entry.checkpoint.number = number;
    write_directory(device, &mut next, &mut directory, &mut PublishedTable::default())?;
    device.flush()?;
    publish(device, &next)?;
    Ok(next)
}

#[test]
fn a_store_opens_with_its_directory_and_needs_no_repair() {
    let (device, superblock) = store();
    let opened = open(&device).unwrap();
    assert_eq!(opened.superblock, superblock);
    assert!(opened.repairs().is_empty());
    assert_eq!(read_directory(&device, &opened.superblock).unwrap().entry, directory().entry);
    assert_eq!(open(&device.process_crash()).unwrap().superblock, superblock);
}

#[test]
fn a_power_cut_after_any_io_of_a_publication_leaves_the_old_or_the_new_version_whole() {
    for seed in 0..40 {
        for ios in 0..60 {
            let (device, superblock) = store();
            let device = SimulatedDevice::from_image(device.durable_image(), 4096, seed);
            device.crash_after(ios);
            let done = publish_next(&device, &superblock, 7).is_ok();
            let after = device.crash(seed * 1000 + ios);
            after.flush().unwrap();
            let opened = open(&after).unwrap_or_else(|error| panic!("seed {seed} ios {ios}: {error}"));
            let number = read_directory(&after, &opened.superblock).unwrap().entry.checkpoint.number;
            assert_eq!(number, if opened.superblock.sequence == 2 { 7 } else { 0 });
            assert!(!done || number == 7, "seed {seed} ios {ios}");
            repair(&after, &opened).unwrap();
            let again = open(&after).unwrap();
            assert!(again.repairs().is_empty());
            assert_eq!(again.superblock, opened.superblock);
            if done {
                break;
            }
        }
    }
}

#[test]
fn three_of_four_copies_may_be_lost_after_a_publication() {
    for alive in 0..4 {
        let (device, superblock) = store();
        let second = publish_next(&device, &superblock, 7).unwrap();
        for (index, position) in Superblock::positions(second.size).into_iter().enumerate() {
            if index != alive {
                device.inject(Fault::ReadError { offset: position });
            }
        }
        let opened = open(&device).unwrap();
        assert_eq!(opened.superblock, second);
        assert_eq!(opened.repairs().concat().len(), 3);
        repair(&device, &opened).unwrap();
        assert!(open(&device).unwrap().repairs().is_empty());
    }
}

#[test]
fn one_bad_copy_of_the_directory_is_survived_and_two_are_named() {
    let (device, superblock) = store();
    let [a, b] = superblock.slot_positions();
    device.inject(Fault::FlipBits { offset: a + 400, mask: 1 });
    assert!(read_directory(&device, &superblock).is_ok());
    device.inject(Fault::ReadError { offset: b });
    let error = read_directory(&device, &superblock).unwrap_err().to_string();
    assert!(error.contains("both copies of the volume directory") && error.contains("--rebuild"), "{error}");
}

#[test]
fn errors_say_what_is_there_and_what_to_do() {
    let text = |device: &SimulatedDevice| open(device).unwrap_err().to_string();
    let empty = SimulatedDevice::new(4 << 20, 4096, 1);
    assert!(text(&empty).contains("is not an envoyfs store; check the path; if it was one: fsck.envoyfs -n"));
    empty.inject(Fault::FlipBits { offset: 1080, mask: 0x53 });
    empty.inject(Fault::FlipBits { offset: 1081, mask: 0xef });
    assert!(text(&empty).contains("it holds: ext2, ext3 or ext4 file system"));

    let (device, superblock) = store();
    let cut = SimulatedDevice::from_image(
        crate::device::DeviceImage::from_bytes(&device.image().to_bytes()[..3 << 20]),
        4096,
        1,
    );
    assert!(text(&cut).contains("truncated: the store has 4194304 bytes, the device 3145728"), "{}", text(&cut));

    let mut newer = superblock.clone();
    newer.incompatible = incompatible::COMPRESSION | 1 << 40;
    format(&device, &newer).unwrap();
    assert!(text(&device).contains("(compression, 0x10000000000); mount it with a newer envoyfs"), "{}", text(&device));

    for position in Superblock::positions(superblock.size) {
        device.inject(Fault::FlipBits { offset: position + 100, mask: 1 });
    }
    let said = text(&device);
    assert!(said.contains("all four copies of the superblock are damaged"), "{said}");
    assert!(said.contains("fsck.envoyfs --rebuild "), "{said}");
}

#[test]
fn a_store_on_a_larger_device_opens_and_says_so() {
    let (device, _) = store();
    let mut bytes = device.image().to_bytes();
    bytes.resize(6 << 20, 0);
    let larger = SimulatedDevice::from_image(crate::device::DeviceImage::from_bytes(&bytes), 512, 1);
    let opened = open(&larger).unwrap();
    assert_eq!((opened.unused_bytes, opened.repairs().len()), (2 << 20, 0));
}

/// Logs the order of writes (offsets) and flushes (`None`).
struct Logging(SimulatedDevice, parking_lot::Mutex<Vec<Option<u64>>>);

impl Device for Logging {
    fn geometry(&self) -> crate::device::Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        self.0.read(offset, into)
    }
    fn submit(&self, write: Write) -> crate::device::Ticket {
        self.1.lock().push(Some(write.offset));
        self.0.submit(write)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.1.lock().push(None);
        self.0.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.0.discard(offset, len)
    }
    fn label(&self) -> String {
        self.0.label()
    }
}

/// A copy fits in one sector, so the simulation never tears it: the order must be looked at itself.
#[test]
fn a_flush_stands_between_the_pairs_of_a_publication_and_the_groups_of_a_repair() {
    let (device, superblock) = store();
    let [first, second, third, fourth] = Superblock::positions(superblock.size).map(Some);
    let device = Logging(device, parking_lot::Mutex::default());
    let next = superblock.next();
    publish(&device, &next).unwrap();
    assert_eq!(std::mem::take(&mut *device.1.lock()), [first, second, None, third, fourth, None]);

    let stale = Some(superblock.clone());
    let opened = Opened {
        superblock: next.clone(),
        copies: [Some(next), stale.clone(), None, stale],
        unused_bytes: 0,
        foreign: String::new(),
        read_only: None,
    };
    repair(&device, &opened).unwrap();
    assert_eq!(std::mem::take(&mut *device.1.lock()), [third, None, second, None, fourth, None]);
}

#[test]
fn a_power_cut_after_any_io_of_a_new_identity_leaves_the_old_or_the_new_one_and_nothing_else_changed() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..10 {
        for ios in 0..60 {
            let (device, superblock) = store();
            // One copy is stale and one damaged: both are repaired first.
            let second = publish_next(&device, &superblock, 7).unwrap();
            device.inject(Fault::FlipBits {
                offset: Superblock::positions(second.size)[usize::try_from(seed).unwrap() % 4] + 9,
                mask: 1,
            });
            let device = SimulatedDevice::from_image(device.durable_image(), 4096, seed);
            device.crash_after(ios);
            let done = set_identity(&device, [9; 16]);
            let after = device.crash(seed * 1000 + ios);
            let opened = open(&after).unwrap_or_else(|error| panic!("seed {seed} ios {ios}: {error}"));
            let changed = opened.superblock.identity == [9; 16];
            if changed {
                let mut expected = second.next();
                (expected.identity, expected.directory_crc) = ([9; 16], opened.superblock.directory_crc);
                assert_eq!(opened.superblock, expected, "seed {seed} ios {ios}");
                new += 1;
            } else {
                assert_eq!(opened.superblock, second, "seed {seed} ios {ios}");
                old += 1;
            }
            assert_eq!(read_directory(&after, &opened.superblock).unwrap().entry.checkpoint.number, 7);
            if let Ok(done) = done {
                assert!(changed && done.repairs().is_empty(), "seed {seed} ios {ios}");
                break;
            }
        }
    }
    assert!(old > 50 && new > 10, "{old} old, {new} new");
}

#[test]
fn a_store_that_may_only_be_read_keeps_its_identity() {
    let (device, mut superblock) = store();
    superblock.read_only_compatible = 1;
    format(&device, &superblock).unwrap();
    let error = set_identity(&device, [9; 16]).unwrap_err();
    assert!(matches!(error, OpenError::OnlyRead { .. }), "{error}");
    assert_eq!(open(&device).unwrap().superblock, superblock);
}

/// The image of a smaller store was copied over the start of a device that held a larger one, whose last copies are still there.
#[test]
fn a_store_at_the_end_of_a_device_that_starts_with_another_is_not_taken_for_the_one_that_is_wanted() {
    let (device, superblock) = store();
    let mut image = device.image();
    for position in [0, 4096] {
        image.zero(position, 4096);
    }
    let alone = SimulatedDevice::from_image(image.clone(), 4096, 1);
    let opened = open(&alone).unwrap();
    assert_eq!((opened.foreign.as_str(), opened.superblock.sequence), ("", superblock.sequence));
    for (seed, is_another) in [([7; 16], true), (superblock.seed, false)] {
        let header = SegmentHeader {
            seed,
            volume: 1,
            segment: 5,
            container: 1,
            stream: 0,
            flags: 0,
            birth_low: Hlc(0),
            opening: 1 << 20,
        };
        let position = (2 << 20) + (192 << 10);
        let mut image = image.clone();
        image.write(position, &header.encode(position));
        let opened = open(&SimulatedDevice::from_image(image, 4096, 1)).unwrap();
        assert_eq!(opened.foreign.contains("another envoyfs store"), is_another, "{}", opened.foreign);
    }
}
