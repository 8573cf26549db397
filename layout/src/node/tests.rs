use super::*;
use crate::{Encoding, ReferenceKind};
use proptest::prelude::*;

fn reference(slot: u16, flags: u8) -> Reference {
    Reference {
        oid: Oid::new(1, 2, slot),
        birth: Hlc(77),
        stored_bytes: 512,
        logical_bytes: 500,
        crc: slot.into(),
        kind: ReferenceKind::Node,
        flags,
        encoding: Encoding::Plain,
    }
}

fn sample() -> NodeBuilder {
    let mut builder = NodeBuilder::new(TreeKind::Directory, 0, Hlc(9), Owner { realm: 3, inode: 4 });
    builder.set_root_blob(b"attributes").unwrap();
    builder.push(b"a", b"one", &[reference(5, 0), reference(6, 0)]).unwrap();
    builder.push(b"b", b"", &[reference(6, 0), reference(6, 2), reference(6, 0)]).unwrap();
    builder.push(b"c", b"three", &[]).unwrap();
    builder
}

#[test]
fn a_node_reads_back_as_it_was_built() {
    let builder = sample();
    let len = builder.encoded_len();
    let bytes = builder.finish();
    assert_eq!(bytes.len() % 512, 0);
    for given in [&bytes[..], &bytes[..len]] {
        let view = NodeView::parse(given).unwrap();
        assert_eq!(view.header().total_bytes as usize, len);
        assert_eq!((view.header().tree, view.header().birth), (TreeKind::Directory, Hlc(9)));
        assert_eq!(view.header().owner, Owner { realm: 3, inode: 4 });
        assert_eq!(view.root_blob(), b"attributes");
        let items: Vec<_> = view.items().map(|i| (i.key, i.value, i.reference_indexes().collect::<Vec<_>>())).collect();
        assert_eq!(
            items,
            vec![
                (&b"a"[..], &b"one"[..], vec![0, 1]),
                (&b"b"[..], &b""[..], vec![1, 2, 1]),
                (&b"c"[..], &b"three"[..], vec![])
            ]
        );
        assert_eq!(view.references().collect::<Vec<_>>(), vec![reference(5, 0), reference(6, 0), reference(6, 2)]);
        assert_eq!(view.reference(2), Some(reference(6, 2)));
        assert_eq!(view.reference(3), None);
    }
}

#[test]
fn edges_are_distinct_objects_whatever_their_flags() {
    let bytes = sample().finish();
    let oids: Vec<_> = edges(&bytes).unwrap().iter().map(|r| r.oid).collect();
    assert_eq!(oids, vec![Oid::new(1, 2, 5), Oid::new(1, 2, 6)]);
}

#[test]
fn golden_header() {
    let bytes = sample().finish();
    let hex: String = bytes[..64].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "45564e4401010000d100000003000300710000004a0000000a0000000900000000000000\
         03000000000000000400000000000000000000000000000000000000"
            .replace(' ', "")
    );
}

#[test]
fn a_full_node_refuses_an_item_and_stays_as_it_was() {
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(1), Owner::default());
    while builder.push(&[7; 100], &[8; 300], &[reference(builder.item_count(), 0)]).is_ok() {}
    let count = builder.item_count();
    let bytes = builder.finish();
    assert!(bytes.len() <= NODE_BYTES_MAX);
    assert_eq!(NodeView::parse(&bytes).unwrap().items().count(), usize::from(count));
    assert_eq!(edges(&bytes).unwrap().len(), usize::from(count));
}

proptest! {
    #[test]
    fn decoders_never_panic_on_random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = NodeView::parse(&bytes);
        let _ = edges(&bytes);
    }

    #[test]
    fn decoders_never_panic_on_damaged_nodes(damage in proptest::collection::vec((0usize..512, any::<u8>()), 1..6), cut in 0usize..600) {
        let mut bytes = sample().finish();
        for (at, value) in damage { bytes[at] = value; }
        bytes.truncate(cut);
        let _ = edges(&bytes);
        if let Ok(view) = NodeView::parse(&bytes) {
            prop_assert_eq!(view.items().count(), usize::from(view.header().item_count));
            prop_assert_eq!(view.references().count(), usize::from(view.header().reference_count));
            for item in view.items() {
                for index in item.reference_indexes() { prop_assert!(view.reference(index).is_some()); }
            }
        }
    }
}
