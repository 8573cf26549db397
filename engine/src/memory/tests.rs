//! The oracle notices what it is there to notice.

use super::*;
use crate::store::{FreedRange, Gone};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{Slice, key};

fn permit(store: &MemoryStore) -> Permit {
    let need = Need { log_bytes: 0, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    store.reserve(need).unwrap()
}

fn record(store: &MemoryStore, data: &[DataObject]) -> Appended {
    let draft = Draft { kind: 256, territory: 1, origin: None, data, body: b"body" };
    store.append(&mut permit(store), draft).unwrap()
}

/// An extent of so many blocks in the current batch.
fn extent(store: &MemoryStore, blocks: usize) -> (Reference, Slice) {
    let object = store.append_data(&mut permit(store), None, &vec![7; blocks * 4096]).unwrap();
    let birth = record(store, std::slice::from_ref(&object)).hlc.birth();
    let reference = Reference::extent(object.oid, birth, object.stored_bytes);
    let blocks = u32::try_from(blocks).unwrap();
    (reference, Slice { file_block: 0, blocks, extent_block: 0, last_block_bytes: 4096, crcs: object.crcs })
}

/// A leaf of an extents tree.
fn leaf(store: &MemoryStore, slices: &[(Reference, Slice)]) -> Reference {
    let birth = record(store, &[]).hlc.birth();
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
    for (reference, slice) in slices {
        builder.push(&key::extent(slice.file_block), &slice.encode().unwrap(), &[*reference]).unwrap();
    }
    store.append_node(Batch::Current, ReferenceKind::Node, 0, birth, &builder.finish()).unwrap()
}

fn publish(store: &MemoryStore, roots: &[Reference], changes: Changes) {
    let frozen = store.freeze().unwrap();
    store.publish(frozen, Roots { references: roots.to_vec(), blob: Vec::new() }, changes).unwrap();
}

fn gone(node: Reference, edges: &[Reference]) -> Changes {
    Changes { gone: vec![Gone { node, edges: edges.to_vec() }], freed: Vec::new() }
}

#[test]
fn a_replaced_node_hands_its_edges_over() {
    let store = MemoryStore::default();
    let data = extent(&store, 2);
    let first = leaf(&store, std::slice::from_ref(&data));
    publish(&store, &[first], Changes::default());
    assert_eq!(store.stored_objects(), (2, 0));
    let second = leaf(&store, std::slice::from_ref(&data));
    publish(&store, &[second], gone(first, &[data.0]));
    store.assert_quiescent();
    store.assert_ranges_exact();
    publish(&store, &[], Changes::default());
    assert_eq!(store.stored_objects(), (0, 0));
}

#[test]
fn what_no_root_reaches_is_dead_at_once() {
    let store = MemoryStore::default();
    let data = extent(&store, 1);
    let _ = leaf(&store, &[data]);
    publish(&store, &[], Changes::default());
    assert_eq!(store.stored_objects(), (0, 0));
}

#[test]
#[should_panic(expected = "INV-08")]
fn freeing_a_node_that_a_fork_holds_is_noticed() {
    let store = MemoryStore::default();
    let data = extent(&store, 1);
    let first = leaf(&store, std::slice::from_ref(&data));
    publish(&store, &[first, first], Changes::default());
    let second = leaf(&store, std::slice::from_ref(&data));
    publish(&store, &[second, first], gone(first, &[data.0]));
}

#[test]
#[should_panic(expected = "INV-08")]
fn a_node_that_is_gone_and_still_there_is_noticed() {
    let store = MemoryStore::default();
    let first = leaf(&store, &[]);
    publish(&store, &[first], Changes::default());
    publish(&store, &[first], gone(first, &[]));
}

#[test]
#[should_panic(expected = "INV-12")]
fn a_leak_is_noticed() {
    let store = MemoryStore::default();
    let child = leaf(&store, &[]);
    let birth = record(&store, &[]).hlc.birth();
    let node = |birth| {
        let mut builder = NodeBuilder::new(TreeKind::RealmTable, 0, birth, Owner::default());
        builder.push(b"a", b"", &[child]).unwrap();
        store.append_node(Batch::Current, ReferenceKind::Node, 0, birth, &builder.finish()).unwrap()
    };
    let old = node(birth);
    // Two roots hold `old`; one replaces it and rightly tells nothing, the other replaces it too, and should have given it back.
    publish(&store, &[old, old], Changes::default());
    let mut state = store.state.lock();
    state.objects.leak_for_test(old.oid);
    drop(state);
    publish(&store, &[], Changes::default());
    store.assert_quiescent();
}

#[test]
#[should_panic(expected = "INV-10")]
fn freeing_a_range_that_is_referenced_is_noticed() {
    let store = MemoryStore::default();
    let data = extent(&store, 4);
    let root = leaf(&store, std::slice::from_ref(&data));
    let freed = vec![FreedRange { oid: data.0.oid, units: 8..16 }];
    publish(&store, &[root], Changes { gone: Vec::new(), freed });
}

#[test]
#[should_panic(expected = "INV-11")]
fn a_lost_range_is_noticed() {
    let store = MemoryStore::default();
    let (reference, slice) = extent(&store, 4);
    let half = Slice { blocks: 2, crcs: slice.crcs[..2].to_vec(), ..slice };
    let root = leaf(&store, &[(reference, half)]);
    publish(&store, &[root], Changes::default());
    store.assert_ranges_exact();
}

#[test]
#[should_panic(expected = "INV-02")]
fn a_node_older_than_what_it_refers_to_is_noticed() {
    let store = MemoryStore::default();
    let child = leaf(&store, &[]);
    let mut builder = NodeBuilder::new(TreeKind::RealmTable, 0, Hlc(2), Owner::default());
    builder.push(b"a", b"", &[child]).unwrap();
    let _ = store.append_node(Batch::Current, ReferenceKind::Node, 0, Hlc(2), &builder.finish());
}

#[test]
#[should_panic(expected = "INV-18")]
fn a_crash_never_loses_what_is_durable() {
    let store = MemoryStore::default();
    let end = record(&store, &[]).end;
    store.commit(end).unwrap();
    let _ = store.crash(Lsn(0));
}

#[test]
fn after_a_crash_the_records_up_to_the_cut_are_replayed_with_their_data() {
    let store = MemoryStore::default();
    let root = leaf(&store, &[]);
    publish(&store, &[root], Changes::default());
    let (first, slice) = extent(&store, 3);
    let cut = store.end();
    let (lost, _) = extent(&store, 1);
    let after = store.crash(cut);
    assert_eq!(after.recovered_roots().references, vec![root]);
    let replay = after.take_replay();
    assert_eq!(replay.len(), 1);
    assert_eq!((replay[0].data[0].oid, replay[0].hlc.birth(), replay[0].end), (first.oid, first.birth, cut));
    let mut bytes = vec![0; 3 * 4096];
    after.read_data(first.oid, 0, &slice.crcs, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
    assert!(after.read_data(lost.oid, 0, &slice.crcs[..1], &mut bytes[..4096]).is_err());
    assert!(after.take_replay().is_empty());
    let next = leaf(&after, &[(first, slice)]);
    assert!(next.birth > first.birth && next.oid != lost.oid);
    publish(&after, &[next], gone(root, &[]));
    after.assert_quiescent();
}

#[test]
fn an_extent_grows_by_what_follows_it() {
    let store = MemoryStore::default();
    let mut permit = permit(&store);
    let first = store.append_data(&mut permit, None, &[1; 4096]).unwrap();
    let mut second = store.append_data(&mut permit, Some((first.oid, 4096)), &[2; 5000]).unwrap();
    record(&store, std::slice::from_ref(&first));
    second.extends = Some(first.oid);
    record(&store, std::slice::from_ref(&second));
    let crcs = [first.crcs.as_slice(), second.crcs.as_slice()].concat();
    let mut bytes = vec![0; 4096 + 5120];
    store.read_data(first.oid, 0, &crcs, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[4096], bytes[4096 + 5000]), (1, 2, 0));
    let wrong = [crcs[1]];
    assert!(matches!(store.read_data(first.oid, 0, &wrong, &mut bytes[..4096]), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_paced_drop_queue_frees_a_little_with_each_checkpoint() {
    let store = MemoryStore::new(MemoryOptions { drops_per_checkpoint: 1, ..MemoryOptions::default() });
    let data = extent(&store, 1);
    let root = leaf(&store, &[data]);
    publish(&store, &[root], Changes::default());
    publish(&store, &[], Changes::default());
    assert_eq!(store.stored_objects(), (1, 1));
    publish(&store, &[], Changes::default());
    assert_eq!(store.stored_objects(), (0, 0));
}

#[test]
fn writers_stop_before_deleters() {
    let store = MemoryStore::new(MemoryOptions { capacity: Some(64 << 10), ..MemoryOptions::default() });
    let need = |tier| Need { log_bytes: 0, node_bytes: 0, payload_bytes: 0, data_bytes: 60 << 10, tier };
    assert!(matches!(store.reserve(need(Tier::Writer)), Err(StoreError::NoSpace { .. })));
    assert!(store.reserve(need(Tier::Shrinking)).is_ok());
    let _ = extent(&store, 8);
    assert!(store.reserve(need(Tier::Shrinking)).is_err());
    assert!(store.reserve(need(Tier::Last)).is_ok());
}
