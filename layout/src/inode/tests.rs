//! Inodes, slices and attributes: round trips, golden bytes, hostile bytes.

use super::*;
use crate::{DirectoryAttributes, Encoding, Oid, ReferenceKind};
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) fn any_reference(kind: ReferenceKind) -> impl Strategy<Value = Reference> {
    (1_u64.., any::<u64>(), 1_u32..100, any::<u32>(), 0_u8..8).prop_map(move |(oid, birth, units, crc, flags)| {
        Reference {
            oid: Oid(oid),
            birth: Hlc(birth),
            stored_bytes: units * 512,
            logical_bytes: units * 512,
            crc,
            kind,
            flags,
            encoding: Encoding::Plain,
        }
    })
}

pub(crate) fn any_time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0_u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn any_slice() -> impl Strategy<Value = Slice> {
    (0_u64..1 << 40, vec(any::<u32>(), 1..10), 0_u32..200, 1_u32..=8).prop_map(
        |(file_block, crcs, extent_block, units)| Slice {
            file_block,
            blocks: u32::try_from(crcs.len()).unwrap(),
            extent_block,
            last_block_bytes: units * 512,
            crcs,
        },
    )
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::None),
        vec(any::<u8>(), 0..=INLINE_BYTES_MAX).prop_map(Body::inline),
        vec((any_slice(), any_reference(ReferenceKind::Extent)), 0..=INLINE_SLICES_MAX).prop_map(|mut slices| {
            let mut block = 0;
            for (slice, _) in &mut slices {
                slice.file_block = block + slice.file_block % 100;
                block = slice.end_block();
            }
            Body::Slices(slices)
        }),
        (any_reference(ReferenceKind::Node), any::<u64>()).prop_map(|(root, bytes)| Body::Tree { root, bytes }),
    ]
}

fn any_xattrs() -> impl Strategy<Value = Xattrs> {
    vec((vec(any::<u8>(), 1..40), vec(any::<u8>(), 0..100)), 0..6)
}

pub(crate) fn any_inode() -> impl Strategy<Value = Inode> {
    (
        1_u64..,
        any::<[u32; 6]>(),
        any::<(u64, u64)>(),
        [any_time(), any_time(), any_time(), any_time()],
        any_xattrs(),
        any_body(),
    )
        .prop_map(
            |(
                number,
                [generation, permissions, uid, gid, nlink, rdev],
                (size, share),
                [atime, mtime, ctime, btime],
                xattrs,
                body,
            )| Inode {
                number,
                generation,
                mode: mode::REGULAR | (permissions & 0o7777),
                uid,
                gid,
                nlink,
                flags: 5,
                rdev,
                size,
                share: Hlc(share),
                atime,
                mtime,
                ctime,
                btime,
                xattrs,
                body,
            },
        )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_inode() {
    let inode = Inode {
        number: 0x0102,
        generation: 3,
        mode: 0o100_644,
        uid: 1000,
        gid: 1001,
        nlink: 1,
        size: 3,
        share: Hlc(8),
        mtime: Timestamp { seconds: -1, nanoseconds: 5 },
        xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
        body: Body::inline(b"abc".to_vec()),
        ..Inode::default()
    };
    let (bytes, references) = inode.encode().unwrap();
    assert!(references.is_empty());
    assert_eq!(
        hex(&bytes),
        concat!(
            "0201000000000000",
            "03000000",
            "a4810000",
            "e8030000",
            "e9030000",
            "01000000",
            "00000000",
            "00000000",
            "00000000",
            "0300000000000000",
            "0000000000000000",
            "0800000000000000",
            "000000000000000000000000",
            "ffffffffffffffff05000000",
            "000000000000000000000000",
            "000000000000000000000000",
            "01",
            "06",
            "0100",
            "757365722e61",
            "62",
            "01",
            "0300",
            "b73f4b36",
            "616263",
        )
    );
    assert_eq!(Inode::decode(&bytes, &[]), Ok(inode));
}

#[test]
fn golden_slice() {
    let slice = Slice { file_block: 7, blocks: 2, extent_block: 1, last_block_bytes: 1024, crcs: vec![1, 0x0203] };
    assert_eq!(
        hex(&slice.encode().unwrap()),
        "0700000000000000020000000100000000040100".to_owned() + "0100000003020000"
    );
    assert_eq!((slice.stored_bytes(), slice.units(), slice.end_block()), (5120, 8..18, 9));
}

#[test]
fn damaged_inline_bytes_are_noticed() {
    let inode = Inode { number: 1, mode: mode::REGULAR, body: Body::inline(vec![7; 10]), ..Inode::default() };
    let (mut bytes, _) = inode.encode().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(Inode::decode(&bytes, &[]), Err(LayoutError::Checksum { .. })));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let inode = Inode { number: 1, mode: mode::REGULAR, ..Inode::default() };
    let large = |body, xattrs| Inode { body, xattrs, ..inode.clone() }.encode();
    assert!(large(Body::inline(vec![0; INLINE_BYTES_MAX + 1]), Vec::new()).is_err());
    assert!(large(Body::None, vec![(b"a".to_vec(), vec![0; XATTR_BYTES_MAX])]).is_err());
    assert!(Inode { number: 0, ..inode.clone() }.encode().is_err());
    let target = Inode { mode: mode::SYMLINK, body: Body::inline(vec![b'x'; SYMLINK_BYTES_MAX]), ..inode };
    assert!(target.encode().is_ok());
    let empty = Slice { file_block: 0, blocks: 0, extent_block: 0, last_block_bytes: 512, crcs: vec![] };
    assert!(empty.encode().is_err());
}

#[test]
fn slices_out_of_order_are_refused() {
    let slice = |file_block| Slice { file_block, blocks: 2, extent_block: 0, last_block_bytes: 4096, crcs: vec![0; 2] };
    let reference = Reference {
        oid: Oid(1),
        birth: Hlc(1),
        stored_bytes: 8192,
        logical_bytes: 8192,
        crc: 0,
        kind: ReferenceKind::Extent,
        flags: 0,
        encoding: Encoding::Plain,
    };
    let body = Body::Slices(vec![(slice(0), reference), (slice(1), reference)]);
    let (bytes, references) = Inode { number: 1, mode: mode::REGULAR, body, ..Inode::default() }.encode().unwrap();
    assert!(Inode::decode(&bytes, &references).is_err());
}

proptest! {
    #[test]
    fn inodes_round_trip(inode in any_inode()) {
        let (bytes, references) = inode.encode().unwrap();
        prop_assert_eq!(Inode::allocated_of(&bytes).unwrap(), inode.body.allocated());
        prop_assert_eq!(Inode::decode(&bytes, &references).unwrap(), inode);
        for cut in 0..bytes.len() {
            prop_assert!(Inode::decode(&bytes[..cut], &references).is_err());
        }
    }
    #[test]
    fn slices_round_trip(slice in any_slice()) {
        let bytes = slice.encode().unwrap();
        prop_assert_eq!(bytes.len(), slice.encoded_len());
        prop_assert_eq!(Slice::stored_bytes_of(&bytes).unwrap(), slice.stored_bytes());
        prop_assert_eq!(Slice::decode(&bytes).unwrap(), slice);
    }
    #[test]
    fn attributes_round_trip(numbers in any::<[u32; 4]>(), words in any::<[u64; 4]>(), key in any::<[u8; 16]>(), times in [any_time(), any_time(), any_time(), any_time()], xattrs in any_xattrs()) {
        let [mode, uid, gid, flags] = numbers;
        let [parent_realm, parent_inode, quota_bytes, quota_files] = words;
        let [atime, mtime, ctime, btime] = times;
        let attributes = DirectoryAttributes { mode, uid, gid, flags, atime, mtime, ctime, btime, hash_key: key, parent_realm, parent_inode, quota_bytes, quota_files, xattrs };
        let bytes = attributes.encode().unwrap();
        prop_assert_eq!(DirectoryAttributes::decode(&bytes).unwrap(), attributes);
        prop_assert!(DirectoryAttributes::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    #[test]
    fn hostile_inodes_do_not_panic(mut inode in any_inode().prop_map(|inode| inode.encode().unwrap()), noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        for (at, byte) in noise {
            let at = at.index(inode.0.len());
            inode.0[at] = byte;
        }
        let _ = Inode::decode(&inode.0, &inode.1);
        let _ = Slice::decode(&inode.0);
        let _ = DirectoryAttributes::decode(&inode.0);
    }
    #[test]
    fn hostile_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Inode::decode(&bytes, &[]);
        let _ = Inode::allocated_of(&bytes);
        let _ = Slice::decode(&bytes);
        let _ = DirectoryAttributes::decode(&bytes);
    }
}
