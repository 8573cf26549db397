//! Images that somebody made to be never done with: everything about them is right that a checksum can say.
use crate::common::CX;
use crate::fsck_bench::*;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{ContainerState, Place};
use envoyfs_layout::key::DirectoryKey;
use envoyfs_layout::node::{NodeView, TreeKind};
use envoyfs_layout::system_page::ListPage;
use envoyfs_layout::{DirectoryAttributes, Entry, Reference, flags};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;

/// Directories of which each has two names for the next: 2^40 ways.
#[test]
fn directories_with_two_names_for_the_next_are_looked_at_once_each() {
    let device = empty(12, 512);
    let mounted = mount(&device);
    let mut at = InodeId::ROOT;
    for _ in 0..40 {
        mounted.directory(at, "y");
        at = mounted.directory(at, "x");
    }
    mounted.close();
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        let mut next = None;
        for item in items.iter_mut() {
            item.references.iter_mut().for_each(|child| child.flags |= flags::LINKS);
            if header.tree == TreeKind::Directory && DirectoryKey::decode(&item.key).unwrap().name == b"x" {
                next = Entry::decode(&item.value, &item.references).ok();
            }
        }
        let Some(Entry::Directory(next)) = next else { return };
        for item in items.iter_mut().filter(|item| item.key.ends_with(b"y")) {
            let Ok(Entry::Directory(mut other)) = Entry::decode(&item.value, &item.references) else { continue };
            (other.root, other.totals) = (next.root, next.totals);
            (item.value, item.references) = Entry::Directory(other).encode().unwrap();
        }
    });
    let device = surgeon.device();
    is_found(&device, findings::FLAGS);
    repair(&device, true);
}

/// Changes four bytes so that the checksum is as wanted.
fn forge(bytes: &mut [u8], at: usize, wanted: u32) {
    let now = crc32c(bytes);
    // By the bit that it decides: what flipping these bits does to the checksum.
    let mut rows: Vec<(u32, u32)> = Vec::new();
    for bit in 0..32_u32 {
        bytes[at + bit as usize / 8] ^= 1 << (bit % 8);
        let (mut change, mut bits) = (crc32c(bytes) ^ now, 1_u32 << bit);
        bytes[at + bit as usize / 8] ^= 1 << (bit % 8);
        for (other, others) in &rows {
            if change ^ other < change {
                (change, bits) = (change ^ other, bits ^ others);
            }
        }
        assert_ne!(change, 0, "four bytes reach every checksum");
        rows.push((change, bits));
        rows.sort_unstable_by(|a, b| b.cmp(a));
    }
    let (mut left, mut flip) = (now ^ wanted, 0);
    for (change, bits) in &rows {
        if left ^ change < left {
            (left, flip) = (left ^ change, flip ^ bits);
        }
    }
    flip.to_le_bytes().iter().zip(&mut bytes[at..]).for_each(|(flip, byte)| *byte ^= flip);
    assert_eq!(crc32c(bytes), wanted);
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

#[test]
fn a_directory_that_contains_itself_is_not_followed_for_ever() {
    let device = populated(12);
    let mounted = mount(&device);
    let around = mounted.directory(InodeId::ROOT, "around");
    mounted.directory(around, "inside");
    mounted.close();
    let mut surgeon = Surgeon::new(&device);
    let mut around: Option<Reference> = None;
    surgeon.every_node(&mut |header, items| {
        for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references)
                && item.key.ends_with(b"around")
            {
                around = Some(directory.root);
            }
        }
    });
    let around = around.unwrap();
    let mut bytes = surgeon.read(&around);
    let (inside, key) = {
        let view = NodeView::parse(&bytes).unwrap();
        let inside = view.references().next().unwrap();
        (inside, DirectoryAttributes::decode(view.root_blob()).unwrap().hash_key)
    };
    let at = find(&bytes, &inside.encode());
    bytes[at..at + Reference::BYTES].copy_from_slice(&Reference { flags: inside.flags, ..around }.encode());
    let at = find(&bytes, &key);
    forge(&mut bytes, at, around.crc);
    surgeon.image.write(surgeon.position(around.oid), &bytes);
    let device = surgeon.device();
    is_found(&device, findings::TOTALS);
    repair(&device, false);
    let report = repair(&device, true);
    assert!(report.is_clean(), "{report}");
    let mounted = mount(&device);
    let around = mounted.ns.lookup(&CX, InodeId::ROOT, b"around").unwrap().id;
    assert!(mounted.ns.lookup(&CX, around, b"inside").is_ok());
    assert!(mounted.tree().contains_key("/top/file 4"));
}

#[test]
fn a_list_that_comes_back_to_its_start_is_damaged() {
    let mut surgeon = Surgeon::new(&populated(12));
    let container = surgeon.directory.table.iter().rposition(|row| row.state == ContainerState::Free).unwrap();
    let roots = surgeon.directory.entry.roots.unwrap();
    let mut place = Place { container: container as u32, units: 8, stored_bytes: 0, crc: 0x600d_5eed };
    place.stored_bytes = ListPage::Unreadable(vec![roots]).encode(place).len() as u32;
    let mut bytes = ListPage::Unreadable(vec![roots]).encode(place);
    let at = find(&bytes, &roots.crc.to_le_bytes());
    forge(&mut bytes, at, place.crc);
    surgeon.image.write(surgeon.offset(place.container, place.units), &bytes);
    let row = &mut surgeon.directory.table[container];
    (row.state, row.live_units, row.used_units) = (ContainerState::System, 1, 16);
    surgeon.directory.entry.unreadable = place;
    surgeon.publish();
    is_found(&surgeon.device(), findings::SYSTEM_PAGE);
}
