//! Records of the namespace: round trips, golden bytes, hostile bytes.

use super::*;
use crate::key::RealmItemKind;
use proptest::prelude::*;

fn time() -> Timestamp {
    Timestamp { seconds: -2, nanoseconds: 999_999_999 }
}

fn every_kind() -> Vec<Operation> {
    let name = b"name".to_vec();
    let inode = Inode {
        number: 7,
        mode: 0o120_777,
        nlink: 1,
        size: 6,
        body: crate::Body::inline(b"target".to_vec()),
        ..Inode::default()
    };
    vec![
        Operation::Bind { handle: 1, target: BindTarget::View },
        Operation::Bind { handle: 2, target: BindTarget::Named { parent: 1, name: name.clone() } },
        Operation::Bind { handle: 3, target: BindTarget::Link { realm_root: 1, shard: 1, inode: 9 } },
        Operation::Bind { handle: 4, target: BindTarget::Orphan { realm: 0, inode: 10 } },
        Operation::Bind { handle: 5, target: BindTarget::Snapshot { directory: 1, realm: 11 } },
        Operation::Create {
            handle: 6,
            parent: 1,
            time: time(),
            name: name.clone(),
            hash_key: [3; 16],
            inode: Box::new(inode),
        },
        Operation::Link { handle: 6, parent: 1, time: time(), name: name.clone() },
        Operation::Unlink { parent: 1, time: time(), name: name.clone(), fate: Fate::Gone },
        Operation::Unlink { parent: 1, time: time(), name: name.clone(), fate: Fate::Orphan },
        Operation::Unlink {
            parent: 1,
            time: time(),
            name: name.clone(),
            fate: Fate::Survivor { parent: 2, name: name.clone() },
        },
        Operation::Rename {
            parent: 1,
            name: name.clone(),
            new_parent: 2,
            new_name: vec![255; 255],
            time: time(),
            exchange: true,
            orphan: false,
        },
        Operation::Write {
            handle: 6,
            size: 1 << 40,
            time: time(),
            pieces: vec![(5, vec![1, 2, 3]), (1 << 40, vec![])],
            direct: vec![1, 2],
        },
        Operation::Truncate { handle: 6, size: 3, time: time() },
        Operation::SetAttributes {
            handle: 6,
            attributes: Attributes { mode: Some(0o600), mtime: Some(time()), ..Attributes::default() },
            time: time(),
        },
        Operation::SetXattr { handle: 6, time: time(), name: b"user.a".to_vec(), value: vec![0; 300] },
        Operation::RemoveXattr { handle: 6, time: time(), name: b"user.a".to_vec() },
        Operation::ForkDirectory { source: 2, parent: 1, time: time(), name: name.clone(), realm: 12 },
        Operation::ForkFile { source: 6, parent: 1, time: time(), name: name.clone(), handle: 13, number: 14 },
        Operation::Snapshot { directory: 2, time: time(), name: name.clone(), realm: 15 },
        Operation::DeleteTree {
            parent: 1,
            time: time(),
            name,
            dropped: vec![RealmKey { realm: 12, kind: RealmItemKind::Snapshot, directory: 2, id: 15 }],
        },
        Operation::DeleteSnapshot { directory: 2, time: time(), realm: 15 },
        Operation::OrphanDrop { realm: 0, inode: 10 },
    ]
}

#[test]
fn every_kind_round_trips() {
    for operation in every_kind() {
        let (kind, body) = operation.encode().unwrap();
        assert_eq!(Operation::decode(kind, &body), Ok(operation));
    }
}

#[test]
fn a_record_that_is_cut_or_longer_is_refused() {
    for operation in every_kind() {
        let (kind, body) = operation.encode().unwrap();
        for len in 0..body.len() {
            assert!(Operation::decode(kind, &body[..len]).is_err(), "{operation:?} cut at {len}");
        }
        assert!(Operation::decode(kind, &[&body[..], &[0]].concat()).is_err());
        assert!(Operation::decode(kind + 100, &body).is_err());
    }
}

#[test]
fn golden_records() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (kind, body) =
        Operation::Bind { handle: 2, target: BindTarget::Named { parent: 1, name: b"ab".to_vec() } }.encode().unwrap();
    assert_eq!((kind, hex(&body)), (256, "0200000000000000010100000000000000026162".to_owned()));
    let (kind, body) =
        Operation::Truncate { handle: 6, size: 3, time: Timestamp { seconds: 1, nanoseconds: 2 } }.encode().unwrap();
    assert_eq!((kind, hex(&body)), (262, "06000000000000000300000000000000010000000000000002000000".to_owned()));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(kind in 250_u16..280, body in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(operation) = Operation::decode(kind, &body) {
            prop_assert_eq!(operation.encode().unwrap().0, kind);
        }
    }
}
