//! Entries, realms, territories and roots: round trips, golden bytes, hostile bytes, summaries.

use super::*;
use crate::inode::tests::{any_inode, any_reference};
use crate::territory::{InodeChunk, TerritoryKind, TerritoryPolicy};
use crate::{Body, ClientRoots, RealmRecord, ReferenceKind, Retention, SnapshotItem, TerritoryRecord};
use proptest::collection::vec;
use proptest::prelude::*;

fn any_totals() -> impl Strategy<Value = Totals> {
    any::<[u64; 4]>().prop_map(|[bytes, files, directories, links]| Totals { bytes, files, directories, links })
}

fn any_directory() -> impl Strategy<Value = DirectoryEntry> {
    (1_u64.., any::<(u64, u32, bool)>(), any_totals(), any_reference(ReferenceKind::Node)).prop_map(
        |(number, (share, generation, snapshots), totals, root)| DirectoryEntry {
            share: Hlc(share),
            number,
            generation,
            totals,
            snapshots,
            root,
        },
    )
}

fn any_realm() -> impl Strategy<Value = RealmEntry> {
    (
        any_directory(),
        any::<(u64, u64, bool, u64)>(),
        proptest::option::of(any_reference(ReferenceKind::Node)),
        any_totals(),
    )
        .prop_map(|(place, (realm_id, home, read_only, links_share), links, links_totals)| RealmEntry {
            share: place.share,
            number: place.number,
            generation: place.generation,
            totals: place.totals,
            snapshots: place.snapshots,
            root: place.root,
            realm_id,
            home,
            read_only,
            links,
            links_share: Hlc(links_share),
            links_totals,
        })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        any_inode().prop_map(Entry::File),
        any_inode().prop_map(|inode| Entry::Symlink(Inode { mode: mode::SYMLINK | 0o777, ..inode })),
        any_inode().prop_map(|inode| Entry::Special(Inode { mode: mode::FIFO | 0o600, body: Body::None, ..inode })),
        any_directory().prop_map(Entry::Directory),
        any::<(u64, u64, u32)>().prop_map(|(shard, inode, mode)| Entry::Link(LinkEntry { shard, inode, mode })),
        any_realm().prop_map(Entry::Realm),
    ]
}

fn any_territory() -> impl Strategy<Value = TerritoryRecord> {
    let reference = || proptest::option::of(any_reference(ReferenceKind::Node));
    (
        any::<([u64; 8], [u32; 2], [u16; 2], [bool; 6])>(),
        any::<[(u64, u64); 4]>(),
        any_totals(),
        [reference(), reference(), reference(), reference(), reference()],
        proptest::option::of(any_realm()),
    )
        .prop_map(
            |((words, [moves, view_number], [parent_volume, pin_volume], bits), chunks, totals, references, view)| {
                let [territory, parent, realm, root_inode, inherited, links_share, last, arrived] = words;
                let [file, closed, read_only, pinned, no_split, no_move] = bits;
                let [root, orphans, link_shards, renamed, imports] = references;
                TerritoryRecord {
                    territory,
                    parent,
                    parent_volume,
                    kind: if file { TerritoryKind::File } else { TerritoryKind::Directory },
                    closed,
                    read_only,
                    pinned,
                    moves,
                    view_number,
                    realm,
                    root_inode,
                    inherited_share: Hlc(inherited),
                    links_share: Hlc(links_share),
                    chunks: chunks.map(|(first, count)| InodeChunk { first, count }),
                    totals,
                    last_hlc: Hlc(last),
                    arrived_hlc: Hlc(arrived),
                    policy: TerritoryPolicy { pin_volume, no_split, no_move },
                    root,
                    orphans,
                    link_shards,
                    renamed,
                    imports,
                    view,
                }
            },
        )
}

fn root(flags: u8) -> Reference {
    Reference {
        oid: crate::Oid(9),
        birth: Hlc(3),
        stored_bytes: 512,
        logical_bytes: 512,
        crc: 1,
        kind: ReferenceKind::Node,
        flags,
        encoding: crate::Encoding::Plain,
    }
}

fn realm() -> RealmEntry {
    RealmEntry {
        share: Hlc(1),
        number: 2,
        generation: 3,
        totals: Totals { bytes: 4, files: 5, directories: 6, links: 7 },
        snapshots: false,
        root: root(flags::LINKS | flags::REALMS),
        realm_id: 8,
        home: 9,
        read_only: true,
        links: Some(root(0)),
        links_share: Hlc(10),
        links_totals: Totals { bytes: 11, files: 12, directories: 0, links: 0 },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_entries() {
    let link = Entry::Link(LinkEntry { shard: 1, inode: 2, mode: 0o100_644 });
    assert_eq!(hex(&link.encode().unwrap().0), "0501000000000000000200000000000000a4810000");
    let (bytes, references) = Entry::Realm(realm()).encode().unwrap();
    let place = "0100000000000000".to_owned()
        + "0200000000000000"
        + "03000000"
        + "0400000000000000"
        + "0500000000000000"
        + "0600000000000000"
        + "0700000000000000"
        + "00";
    let rest = "0800000000000000".to_owned()
        + "0900000000000000"
        + "01"
        + "01"
        + "0a00000000000000"
        + "0b00000000000000"
        + "0c00000000000000"
        + &"00".repeat(16);
    assert_eq!(hex(&bytes), format!("06{place}{rest}"));
    assert_eq!(references, vec![root(flags::LINKS | flags::REALMS), root(0)]);
    let directory = Entry::Directory(realm().directory()).encode().unwrap().0;
    assert_eq!(hex(&directory), format!("02{place}"));
}

#[test]
fn a_realm_hides_its_links_and_realms_but_not_its_snapshots() {
    let (totals, found) = realm().summary();
    assert_eq!(totals, Totals { bytes: 15, files: 17, directories: 7, links: 0 });
    assert_eq!(found, flags::REALMS);
    let with = RealmEntry { snapshots: true, ..realm() };
    assert_eq!(with.summary().1, flags::REALMS | flags::SNAPSHOTS);
    let below = RealmEntry { root: root(flags::SNAPSHOTS | flags::LINKS), ..realm() };
    assert_eq!(below.summary().1, flags::REALMS | flags::SNAPSHOTS);
}

#[test]
fn a_directory_passes_flags_and_totals_on() {
    let directory = DirectoryEntry { snapshots: true, ..realm().directory() };
    assert_eq!(directory.summary(), (Totals { bytes: 4, files: 5, directories: 7, links: 7 }, 7));
    assert_eq!(Entry::Link(LinkEntry { shard: 1, inode: 1, mode: 0 }).summary().1, flags::LINKS);
}

#[test]
fn exits_and_unknown_kinds_are_refused() {
    for kind in [0, 7, 8, 9, 255] {
        assert!(matches!(Entry::decode(&[kind, 1, 2], &[]), Err(LayoutError::Unknown { .. })), "kind {kind}");
        assert!(Entry::summarize(&[kind, 1, 2], &[]).is_err());
    }
    assert!(Entry::decode(&[], &[]).is_err());
}

#[test]
fn the_kind_must_agree_with_the_mode() {
    let inode = Inode { number: 1, mode: mode::REGULAR, ..Inode::default() };
    let (mut bytes, _) = Entry::File(inode).encode().unwrap();
    bytes[0] = 3;
    assert!(Entry::decode(&bytes, &[]).is_err());
}

#[test]
fn golden_territory_record_is_512_bytes() {
    let record = TerritoryRecord { territory: 1, realm: 1, root_inode: 1, ..TerritoryRecord::default() };
    let (bytes, references) = record.encode().unwrap();
    assert_eq!((bytes.len(), references.len()), (513, 0));
    assert_eq!(bytes[0], 1);
    assert_eq!((bytes[32], bytes[40]), (1, 1));
    assert!(bytes[41..].iter().all(|b| *b == 0));
    let with = TerritoryRecord { view: Some(realm()), ..record };
    let (bytes, references) = with.encode().unwrap();
    assert_eq!(references.len(), 2);
    assert_eq!(bytes[512], 1);
    assert_eq!(TerritoryRecord::decode(&bytes, &references), Ok(with));
}

#[test]
fn golden_roots() {
    let roots = ClientRoots { territory_table: root(0), realm_table: root(1) };
    let (blob, references) = roots.encode();
    assert_eq!(hex(&blob), "45565254010002000102");
    assert_eq!(ClientRoots::decode(&blob, &references), Ok(roots));
    assert!(ClientRoots::decode(&blob, &references[..1]).is_err());
    for at in 0..blob.len() {
        let mut bad = blob.clone();
        bad[at] ^= 1;
        assert!(ClientRoots::decode(&bad, &references).is_err(), "byte {at}");
    }
}

#[test]
fn golden_realm_record() {
    let record = RealmRecord {
        index: 1,
        created: Hlc(2),
        snapshots: 3,
        orphans: 4,
        retention: Retention { interval_seconds: 5, keep: 6 },
    };
    let bytes = record.encode().unwrap();
    assert_eq!(
        hex(&bytes),
        "01000000010000000200000000000000030000000000000004000000000000000500000006000000".to_owned()
            + &"00".repeat(24)
    );
    assert_eq!(RealmRecord::decode(&bytes), Ok(record));
    assert!(RealmRecord::decode(&bytes[..63]).is_err());
}

proptest! {
    #[test]
    fn entries_round_trip(entry in any_entry()) {
        let (bytes, references) = entry.encode().unwrap();
        prop_assert_eq!(Entry::summarize(&bytes, &references).unwrap(), entry.summary());
        prop_assert_eq!(Entry::decode(&bytes, &references).unwrap(), entry);
        prop_assert!(Entry::decode(&bytes[..bytes.len() - 1], &references).is_err());
        let more = [references.as_slice(), &[root(0)]].concat();
        prop_assert!(Entry::decode(&bytes, &more).is_err());
        if !references.is_empty() {
            prop_assert!(Entry::decode(&bytes, &references[1..]).is_err());
        }
    }
    #[test]
    fn snapshots_round_trip(name in vec(any::<u8>(), 0..=255), realm in any_realm()) {
        let item = SnapshotItem { name, realm };
        let (bytes, references) = item.encode().unwrap();
        prop_assert_eq!(SnapshotItem::decode(&bytes, &references).unwrap(), item);
    }
    #[test]
    fn territories_round_trip(record in any_territory()) {
        let (bytes, references) = record.encode().unwrap();
        prop_assert_eq!(TerritoryRecord::decode(&bytes, &references).unwrap(), record);
        for cut in [0, 8, 100, 511, 512] {
            prop_assert!(TerritoryRecord::decode(&bytes[..cut], &references).is_err());
        }
    }
    #[test]
    fn hostile_values_do_not_panic(mut value in any_entry().prop_map(|entry| entry.encode().unwrap()), noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        for (at, byte) in noise {
            let at = at.index(value.0.len());
            value.0[at] = byte;
        }
        let _ = Entry::decode(&value.0, &value.1);
        let _ = Entry::summarize(&value.0, &value.1);
        let _ = SnapshotItem::decode(&value.0, &value.1);
    }
    #[test]
    fn hostile_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..700)) {
        let _ = Entry::decode(&bytes, &[]);
        let _ = Entry::summarize(&bytes, &[]);
        let _ = TerritoryRecord::decode(&bytes, &[]);
        let _ = RealmRecord::decode(&bytes);
        let _ = SnapshotItem::decode(&bytes, &[]);
        let _ = ClientRoots::decode(&bytes, &[]);
    }
}
