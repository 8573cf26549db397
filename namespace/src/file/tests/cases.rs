//! Cases with a story.

use super::Machine;
use crate::api::Error;
use crate::file::{Content, Edit, FILE_BYTES_MAX};
use envoyfs_engine::StoreError;
use envoyfs_engine::store::{DataObject, Store};
use envoyfs_layout::{Body, Oid};
use std::sync::atomic::Ordering;

const BLOCK: usize = 4096;

fn freed_units(machine: &Machine) -> usize {
    machine.freed.values().map(std::collections::BTreeSet::len).sum()
}

fn slice_count(body: &Body) -> usize {
    match body {
        Body::Slices(slices) => slices.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn appends_of_one_epoch_become_one_extent_and_one_read() {
    let mut machine = Machine::new(1 << 20);
    for number in 0..256_u64 {
        machine.write(number * 4096, &[u8::try_from(number).unwrap(); BLOCK]).unwrap();
    }
    machine.checkpoint().unwrap();
    assert_eq!(slice_count(machine.content.base()), 1);
    machine.check();
    let before = machine.store.reads.load(Ordering::SeqCst);
    let mut into = vec![0; 1 << 20];
    assert_eq!(machine.content.read(&machine.nodes, 1 << 20, 0, &mut into).unwrap(), 1 << 20);
    assert_eq!(machine.store.reads.load(Ordering::SeqCst), before + 1);
    machine.write(1 << 20, &[1; BLOCK]).unwrap();
    assert_eq!(machine.content.last_object(257).map(|(_, bytes)| bytes), Some(4096), "the next one starts anew");
}

#[test]
fn what_is_overwritten_is_named_by_the_unit_at_which_it_is_stored() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 3 * BLOCK]).unwrap();
    let stored_at = |machine: &Machine, block| machine.content.stored_at(&machine.nodes, block);
    let first = stored_at(&machine, 0).unwrap();
    let second = stored_at(&machine, 1).unwrap();
    assert_eq!((second.segment(), second.slot()), (first.segment(), first.slot() + 8));
    machine.checkpoint().unwrap();
    assert_eq!(stored_at(&machine, 1), Some(second));
    machine.write(4096, &[2; BLOCK]).unwrap();
    let third = stored_at(&machine, 1).unwrap();
    assert_ne!(third, second);
    assert_eq!((stored_at(&machine, 0), stored_at(&machine, 3)), (Some(first), None));
}

#[test]
fn a_write_of_16_mib_is_many_extents_and_freed_whole_when_overwritten() {
    let mut machine = Machine::new(1 << 20);
    let bytes: Vec<u8> = (0..16_usize << 20).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
    machine.write(0, &bytes).unwrap();
    assert_eq!(machine.content.allocated(), 16 << 20);
    machine.checkpoint().unwrap();
    assert!(matches!(machine.content.base(), Body::Tree { bytes, .. } if *bytes == 16 << 20));
    let mut into = vec![0; bytes.len()];
    machine.content.read(&machine.nodes, 16 << 20, 0, &mut into).unwrap();
    assert!(into == bytes);
    machine.write(0, &bytes).unwrap();
    assert_eq!(freed_units(&machine), (16 << 20) / 512);
    machine.checkpoint().unwrap();
    assert_eq!(machine.content.allocated(), 16 << 20);
}

#[test]
fn a_block_covered_in_each_of_three_layers_is_freed_once() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 2 * BLOCK]).unwrap();
    machine.checkpoint().unwrap();
    machine.write(0, &[2; BLOCK]).unwrap();
    assert_eq!(freed_units(&machine), 8, "of the base");
    machine.freeze();
    machine.write(0, &[3; BLOCK]).unwrap();
    assert_eq!(freed_units(&machine), 16, "of the frozen object");
    machine.build().unwrap();
    machine.write(0, &[4; BLOCK]).unwrap();
    assert_eq!(freed_units(&machine), 24, "of the active object");
    machine.install();
    machine.check();
    assert_eq!(freed_units(&machine), 24);
    machine.checkpoint().unwrap();
    machine.check();
    machine.check_replay();
    assert_eq!(freed_units(&machine), 24, "dropping slices that were covered frees nothing");
}

#[test]
fn a_payload_that_was_covered_while_it_was_built_is_freed_when_it_is_installed() {
    let mut machine = Machine::new(1 << 20);
    machine.write(10, &[1; 1000]).unwrap();
    machine.freeze();
    machine.build().unwrap();
    machine.write(0, &[2; BLOCK]).unwrap();
    assert_eq!(freed_units(&machine), 0);
    machine.install();
    assert_eq!(freed_units(&machine), 2, "1010 bytes are two units");
    machine.check();
    machine.checkpoint().unwrap();
    machine.check();
}

#[test]
fn nothing_that_a_fork_has_seen_is_freed() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 3 * BLOCK + 5]).unwrap();
    machine.fork().unwrap();
    machine.write(0, &[2; BLOCK]).unwrap();
    machine.punch(BLOCK as u64, 100).unwrap();
    machine.truncate(0).unwrap();
    let objects = machine.store.objects();
    for oid in machine.freed.keys() {
        assert!(objects[oid].birth.unwrap() > machine.es);
    }
    assert_eq!(freed_units(&machine), 8, "the one object written since");
    machine.checkpoint().unwrap();
    machine.check();
}

#[test]
fn tiny_files_lie_in_the_inode_and_leave_it_when_they_grow() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[7; 100]).unwrap();
    machine.checkpoint().unwrap();
    assert!(matches!(machine.content.base(), Body::Inline { bytes, .. } if bytes.len() == 100));
    assert_eq!(machine.content.allocated(), 0);
    machine.write(5000, &[8; 10]).unwrap();
    machine.checkpoint().unwrap();
    machine.check();
    assert_eq!(slice_count(machine.content.base()), 2);
    assert_eq!(machine.content.allocated(), 512 + 1024);
    machine.truncate(50).unwrap();
    machine.checkpoint().unwrap();
    machine.check();
    assert!(matches!(machine.content.base(), Body::Inline { bytes, .. } if *bytes == [7; 50]));
}

#[test]
fn a_file_that_grows_after_it_was_cut_shows_zeros() {
    for checkpoint in [false, true] {
        let mut machine = Machine::new(1 << 20);
        machine.write(0, &[9; 3 * BLOCK]).unwrap();
        machine.truncate(5000).unwrap();
        if checkpoint {
            machine.checkpoint().unwrap();
        }
        machine.truncate(12_288).unwrap();
        machine.check();
        assert_eq!(machine.content.seek(&machine.nodes, 12_288, 0, false).unwrap(), Some(8192));
        assert_eq!(machine.content.seek(&machine.nodes, 12_288, 8192, true).unwrap(), None);
    }
}

#[test]
fn far_offsets_work_up_to_the_largest_size() {
    let mut machine = Machine::new(1 << 20);
    machine.write(1 << 40, &[1]).unwrap();
    machine.write(FILE_BYTES_MAX - 1, &[2]).unwrap();
    machine.check();
    let size = machine.oracle.size;
    assert_eq!(machine.content.seek(&machine.nodes, size, 0, true).unwrap(), Some(1 << 40));
    assert!(matches!(machine.write(FILE_BYTES_MAX, &[3]), Err(Error::FileTooLarge)));
    assert!(matches!(machine.write(u64::MAX - 10, &[3]), Err(Error::FileTooLarge)));
    assert!(matches!(machine.truncate(u64::MAX), Err(Error::FileTooLarge)));
    machine.checkpoint().unwrap();
    machine.check();
    assert_eq!(machine.content.allocated(), 512 + 4096, "the first byte of a block, and the last but one");
    machine.truncate(0).unwrap();
    machine.checkpoint().unwrap();
    assert_eq!(*machine.content.base(), Body::None);
}

#[test]
fn an_edit_that_cannot_read_fails_before_it_changes_anything() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 2 * BLOCK]).unwrap();
    machine.store.broken.store(true, Ordering::SeqCst);
    assert!(matches!(machine.write(100, &[2; 5]), Err(Error::Store(StoreError::Refused(_)))));
    assert!(machine.truncate(5000).is_err());
    machine.write(0, &[3; BLOCK]).unwrap();
    machine.store.broken.store(false, Ordering::SeqCst);
    machine.check();
}

#[test]
fn records_that_no_writer_makes_are_refused() {
    let machine = Machine::new(1 << 20);
    let object = |slot: u16, extends: Option<Oid>, stored_bytes: u32, crcs: usize| DataObject {
        oid: Oid::new(1, 1, slot),
        extends,
        stored_bytes,
        crcs: vec![0; crcs],
    };
    let refused = |pieces: &[(u64, &[u8])], direct: &[(u64, &DataObject)]| {
        machine.content.prepare(&machine.nodes, 0, &Edit::Write { pieces, direct }).is_err()
    };
    let good = object(8, None, 8192, 2);
    assert!(!refused(&[], &[(0, &good)]));
    assert!(refused(&[(4096, &[1])], &[(0, &good)]), "bytes for a block of an object");
    assert!(refused(&[], &[(0, &good), (5, &good)]), "an object twice");
    assert!(refused(&[], &[(0, &good), (1, &object(24, None, 4096, 1))]), "a block twice");
    assert!(refused(&[], &[(0, &object(8, None, 512, 1))]), "not whole blocks");
    assert!(refused(&[], &[(0, &object(8, None, 0, 0))]), "nothing");
    assert!(refused(&[], &[(0, &object(8, None, 8192, 1))]), "a checksum is missing");
    assert!(refused(&[], &[(0, &object(8, Some(Oid::new(1, 1, 0)), 4096, 1))]), "growth of nothing");
    assert!(!refused(&[], &[(0, &good), (2, &object(24, Some(good.oid), 4096, 1))]));
    assert!(refused(&[], &[(0, &good), (2, &object(32, Some(good.oid), 4096, 1))]), "growth elsewhere");
    assert!(refused(&[], &[(u64::MAX, &good)]));
    let large = object(8, None, 1 << 20, 256);
    assert!(refused(&[], &[(0, &large), (256, &object(8 + 2048, Some(large.oid), 4096, 1))]), "larger than any extent");
}

#[test]
fn a_body_that_lies_about_its_extents_is_an_error() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 2 * BLOCK]).unwrap();
    machine.checkpoint().unwrap();
    let Body::Slices(slices) = machine.content.base().clone() else { panic!("two blocks lie in slices") };
    let read = |change: &dyn Fn(&mut envoyfs_layout::Slice, &mut envoyfs_layout::Reference)| {
        let (mut slice, mut extent) = slices[0].clone();
        change(&mut slice, &mut extent);
        let content = Content::from_body(&Body::Slices(vec![(slice, extent)]));
        content.read(&machine.nodes, 12_288, 0, &mut [0; 12_288])
    };
    assert!(read(&|_, _| ()).is_ok());
    assert!(read(&|slice, _| slice.extent_block = 1).is_err());
    assert!(read(&|slice, _| slice.crcs[1] ^= 1).is_err());
    assert!(read(&|slice, _| slice.blocks = 3).is_err());
    assert!(read(&|slice, _| slice.last_block_bytes = 512).is_err());
    assert!(read(&|_, extent| extent.oid = Oid::new(9, 9, 9)).is_err());
    assert!(
        read(&|slice, extent| (slice.extent_block, extent.stored_bytes) = (u32::MAX, u32::MAX / 512 * 512)).is_err()
    );
}

#[test]
fn an_extent_that_is_not_exclusive_any_more_does_not_grow() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[1; 2 * BLOCK]).unwrap();
    let block = machine.store.append_data(&mut super::permit(), None, &[2; BLOCK]).unwrap();
    assert!(machine.content.extends(machine.es, 2, &block, 1 << 20).is_some());
    assert!(machine.content.extends(machine.es, 2, &block, 2 * 4096).is_none(), "too large");
    assert!(machine.content.extends(machine.es, 3, &block, 1 << 20).is_none(), "not there in the file");
    machine.raise_share();
    assert!(machine.content.extends(machine.es, 2, &block, 1 << 20).is_none());
}

#[test]
fn bytes_that_are_stored_beyond_the_size_never_show() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[0xee; 2 * BLOCK]).unwrap();
    machine.checkpoint().unwrap();
    // A store that lies: the inode says 5000 bytes, the slice has two whole blocks.
    let mut content = Content::from_body(machine.content.base());
    let prepared =
        content.prepare(&machine.nodes, 5000, &Edit::Write { pieces: &[(4200, &[1])], direct: &[] }).unwrap();
    content.apply(prepared, machine.es, machine.clock.next_record().birth(), &mut Vec::new());
    let mut into = [0; BLOCK];
    content.read(&machine.nodes, 8192, 4096, &mut into).unwrap();
    assert_eq!((into[104], into[903], into[904], into[4095]), (1, 0xee, 0, 0));
}

#[test]
fn an_extent_of_payloads_is_as_young_as_the_youngest() {
    let mut machine = Machine::new(1 << 20);
    machine.write(4096, &[1; 100]).unwrap();
    machine.write(0, &[2; 100]).unwrap();
    let youngest = machine.clock.birth();
    machine.write(2 * 4096, &[3; 100]).unwrap();
    machine.write(10, &[4; 100]).unwrap();
    assert!(machine.clock.birth() > youngest);
    machine.checkpoint().unwrap();
    let Body::Slices(slices) = machine.content.base() else { panic!("one extent") };
    assert_eq!(slices.iter().map(|(_, extent)| extent.birth).collect::<Vec<_>>(), [machine.clock.birth()]);
}

#[test]
fn one_slice_with_many_holes_keeps_what_is_between() {
    let mut machine = Machine::new(1 << 20);
    machine.write(0, &[5; 64 * BLOCK]).unwrap();
    for far in 1..6 {
        machine.write(far << 30, &[6; BLOCK]).unwrap();
    }
    machine.checkpoint().unwrap();
    assert!(matches!(machine.content.base(), Body::Tree { .. }));
    for block in (1..64).step_by(3) {
        machine.punch(block * 4096, 4096).unwrap();
    }
    machine.check();
    machine.checkpoint().unwrap();
    machine.check();
    assert_eq!(freed_units(&machine), 21 * 8);
    machine.truncate(3 * 4096).unwrap();
    machine.checkpoint().unwrap();
    machine.check();
    assert_eq!(slice_count(machine.content.base()), 2, "a tree that got small goes back into the inode");
}
