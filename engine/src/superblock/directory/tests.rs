//! Publications in which some, many or all rows change: what is written, and what a power cut or a damaged copy leaves.

use super::*;
use crate::device::{Fault, SimulatedDevice};
use crate::superblock::tests::{directory, first};
use crate::superblock::{format, open, publish};
use envoyfs_layout::directory_page::ContainerState;

const CONTAINERS: u32 = 400;

/// A row that says when it was changed.
fn row(container: u32, at: u64) -> ContainerRow {
    let used_units = u32::try_from(at).unwrap();
    ContainerRow { state: ContainerState::Sealed, segment: container + 1, used_units, ..ContainerRow::FREE }
}

struct Publisher {
    superblock: Superblock,
    table: PublishedTable,
    rows: Vec<ContainerRow>,
}

impl Publisher {
    /// A formatted store in which nothing is used.
    fn new() -> (SimulatedDevice, Self) {
        let device = SimulatedDevice::new(32 << 20, 4096, 1);
        let mut superblock = Superblock { size: 32 << 20, area_b: 31 << 20, containers: CONTAINERS, ..first() };
        let mut publisher = directory();
        publisher.table = vec![ContainerRow::FREE; CONTAINERS as usize];
        let mut table = PublishedTable::default();
        write_directory(&device, &mut superblock, &mut publisher, &mut table).unwrap();
        format(&device, &superblock).unwrap();
        (device, Self { superblock, table, rows: publisher.table })
    }

    /// As a mount finds it.
    fn open(device: &SimulatedDevice) -> Self {
        let superblock = open(device).unwrap().superblock;
        let (_, table) = read_published(device, &superblock).unwrap();
        let mut rows = table.rows().to_vec();
        rows.resize(CONTAINERS as usize, ContainerRow::FREE);
        Self { superblock, table, rows }
    }

    fn change(&mut self, containers: impl Iterator<Item = u32>) {
        let at = self.superblock.sequence;
        containers.for_each(|container| self.rows[container as usize] = row(container, at));
    }

    fn publish(&mut self, device: &SimulatedDevice) -> Result<(), DeviceError> {
        let mut next = self.superblock.next();
        let mut published = VolumeDirectory { table: self.rows.clone(), ..directory() };
        write_directory(device, &mut next, &mut published, &mut self.table)?;
        device.flush()?;
        publish(device, &next)?;
        self.superblock = next;
        Ok(())
    }

    fn base(&self) -> TableBase {
        self.table.base.unwrap()
    }
}

#[test]
fn a_publication_writes_what_changed_and_a_whole_table_when_that_is_much() {
    let (device, mut publisher) = Publisher::new();
    publisher.change(0..300);
    publisher.publish(&device).unwrap();
    let whole = publisher.base();
    assert_eq!((whole.sequence, whole.rows), (2, 300));
    let before = device.counters().bytes_written;
    for step in 0..5 {
        publisher.change(step * 10..step * 10 + 10);
        publisher.publish(&device).unwrap();
        assert_eq!((publisher.base(), publisher.table.changed.len()), (whole, 10 * (step as usize + 1)));
    }
    // Two pages of at most 8 KiB and four superblocks each, not two tables of 20 KiB.
    assert!(device.counters().bytes_written - before <= 5 * (2 * 8192 + 4 * 4096));
    publisher.change(50..51);
    publisher.publish(&device).unwrap();
    let next = publisher.base();
    assert_eq!((next.sequence, next.slot), (8, 1 - whole.slot), "more than a page lists: {next:?}");
    assert!(publisher.table.changed.is_empty());
    let found = Publisher::open(&device);
    assert_eq!((&found.rows, &found.table), (&publisher.rows, &publisher.table));
}

#[test]
fn a_table_gets_old_and_is_written_again() {
    let (device, mut publisher) = Publisher::new();
    publisher.change(0..300);
    publisher.publish(&device).unwrap();
    let first = publisher.base();
    for _ in 0..TABLE_AGE_MAX {
        publisher.publish(&device).unwrap();
        assert_eq!(publisher.base(), first);
    }
    publisher.publish(&device).unwrap();
    assert_eq!(publisher.base().sequence, first.sequence + TABLE_AGE_MAX + 1);
}

#[test]
fn one_damaged_copy_of_the_table_is_survived_and_replaced_and_two_are_named() {
    for damaged in [0, 1] {
        let (device, mut publisher) = Publisher::new();
        publisher.change(0..300);
        publisher.publish(&device).unwrap();
        publisher.change(7..9);
        publisher.publish(&device).unwrap();
        let at = publisher.superblock.table_positions(publisher.base().slot);
        device.inject(Fault::FlipBits { offset: at[damaged] + 500, mask: 1 });
        let mut found = Publisher::open(&device);
        assert_eq!(found.rows, publisher.rows);
        // The second copy is not looked at while the first is good.
        assert_eq!(found.table.base.is_none(), damaged == 0);
        if damaged == 0 {
            found.publish(&device).unwrap();
            assert_ne!(found.base(), publisher.base());
            device.inject(Fault::ReadError { offset: at[0] });
            device.inject(Fault::ReadError { offset: at[1] });
            assert_eq!(Publisher::open(&device).rows, publisher.rows, "both copies are new");
        } else {
            device.inject(Fault::ReadError { offset: at[0] });
            let error = read_published(&device, &publisher.superblock).unwrap_err().to_string();
            assert!(error.contains("both copies of the volume directory"), "{error}");
        }
    }
}

/// Few and many rows change in turns, so that tables and pages are written for both slots.
#[test]
fn a_power_cut_at_any_io_leaves_the_rows_of_the_version_before_or_of_this_one() {
    let mut cuts = 0;
    for seed in 0..8_u64 {
        let (device, mut publisher) = Publisher::new();
        for step in 0..12_u32 {
            let many = (u64::from(step) + seed) % 3 == 0;
            publisher.change((step..if many { 320 } else { 300 }).step_by(if many { 2 } else { 60 }));
            let (before, image) = (Publisher::open(&device), device.durable_image());
            for ios in 0.. {
                let cut = SimulatedDevice::from_image(image.clone(), 4096, seed);
                let mut trial = Publisher {
                    superblock: before.superblock.clone(),
                    table: before.table.clone(),
                    rows: publisher.rows.clone(),
                };
                cut.crash_after(ios);
                let done = trial.publish(&cut).is_ok();
                let after = cut.crash(seed * 1000 + ios);
                after.flush().unwrap();
                let found = Publisher::open(&after);
                let expected = if found.superblock.sequence == before.superblock.sequence { &before } else { &trial };
                assert!(found.rows == expected.rows, "seed {seed} step {step} ios {ios}");
                assert!(!done || found.rows == trial.rows, "seed {seed} step {step} ios {ios}");
                // The next publication is made of what was found, not of what was meant.
                let mut next = found;
                next.change(3..5);
                next.publish(&after).unwrap();
                assert!(Publisher::open(&after).rows == next.rows, "seed {seed} step {step} ios {ios}");
                cuts += 1;
                if done {
                    break;
                }
            }
            publisher.publish(&device).unwrap();
        }
    }
    assert!(cuts > 500, "{cuts}");
}
