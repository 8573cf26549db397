use super::law::compute;
use super::*;
use crate::store::{Changes, FreedRange, Gone};
use envoyfs_layout::batch::{Batch, BatchRange, Delta, Drop, Repair, RepairAction};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{HistoryRow, HistoryState, ListPage};
use envoyfs_layout::{Encoding, Hlc, ReferenceKind};
use std::collections::HashMap;

fn node(slot: u16) -> Reference {
    Reference {
        oid: Oid::new(1, 1, slot),
        birth: Hlc(3),
        stored_bytes: 512,
        logical_bytes: 512,
        crc: 0,
        kind: ReferenceKind::Node,
        flags: 0,
        encoding: Encoding::Plain,
    }
}

fn extent(slot: u16) -> Reference {
    Reference { kind: ReferenceKind::Extent, stored_bytes: 4096, logical_bytes: 4096, ..node(slot) }
}

fn unstored(objects: &[(Reference, &[Reference])], batch: u64) -> HashMap<Oid, Unstored> {
    let of = |(reference, edges): &(Reference, &[Reference])| {
        (reference.oid, Unstored { reference: *reference, edges: edges.to_vec(), batch, referred: false, pieces: 1 })
    };
    objects.iter().map(of).collect()
}

fn apply(state: &mut State, outcome: Outcome) {
    let Outcome { new, freed, ranges, deltas, .. } = outcome;
    state.apply(&Batch { checkpoint: 1, new, freed, ranges, deltas, ..Batch::default() }, None).unwrap();
    assert_eq!(state.check(), Vec::<String>::new());
}

fn drain(state: &mut State, edges_of: &HashMap<Oid, Vec<Reference>>) {
    while let Some(next) = state.next_drop() {
        let edges = edges_of.get(&next.oid).cloned().unwrap_or_default();
        state
            .apply_drop(&Drop { object: next.oid, stored_bytes: next.stored_bytes, edges, unreadable: false })
            .unwrap();
    }
}

/// Root 10 over leaves 20, 21 over extents 32, 40; 21 and 22 share 40 later.
fn first() -> (State, HashMap<Oid, Unstored>) {
    let objects: [(Reference, &[Reference]); 5] = [
        (node(10), &[node(20), node(21)]),
        (node(20), &[extent(32)]),
        (node(21), &[extent(40)]),
        (extent(32), &[]),
        (extent(40), &[]),
    ];
    let unstored = unstored(&objects, 1);
    let mut state = State::new(4);
    state.open_segment(1, 2);
    let outcome = compute(1, &unstored, &[], &[node(10)], &Changes::default()).unwrap();
    assert!(outcome.deltas.is_empty() && outcome.dead.is_empty());
    apply(&mut state, outcome);
    (state, unstored)
}

#[test]
fn new_objects_start_with_one_reference_and_no_delta() {
    let (state, objects) = first();
    assert_eq!(state.live_units(), 3 + 16);
    assert_eq!(state.live_in(2), 19);
    objects.keys().for_each(|oid| assert_eq!(state.references(*oid), 1));
}

#[test]
fn a_replaced_exclusive_path_hands_its_edges_over_without_deltas() {
    let (mut state, _) = first();
    // Leaf 21 and the root are written anew; 40 stays, 20 stays.
    let objects = unstored(&[(node(11), &[node(20), node(23)]), (node(23), &[extent(40)])], 2);
    let gone = |node, edges: &[Reference]| Gone { node, edges: edges.to_vec() };
    let changes =
        Changes { gone: vec![gone(node(10), &[node(20), node(21)]), gone(node(21), &[extent(40)])], freed: Vec::new() };
    let outcome = compute(2, &objects, &[node(10)], &[node(11)], &changes).unwrap();
    assert!(outcome.deltas.is_empty(), "{:?}", outcome.deltas);
    apply(&mut state, outcome);
    assert_eq!(state.live_units(), 19);
    assert_eq!(state.shared_objects(), 0);
}

#[test]
fn a_shared_leaf_counts_and_the_drop_queue_takes_both_owners_away() {
    let (mut state, _) = first();
    // A second root over the same leaves.
    let objects = unstored(&[(node(12), &[node(20), node(21)])], 2);
    let outcome = compute(2, &objects, &[node(10)], &[node(10), node(12)], &Changes::default()).unwrap();
    apply(&mut state, outcome);
    assert_eq!((state.references(node(20).oid), state.references(extent(32).oid), state.shared_objects()), (2, 1, 2));
    let edges = HashMap::from([
        (node(10).oid, vec![node(20), node(21)]),
        (node(12).oid, vec![node(20), node(21)]),
        (node(20).oid, vec![extent(32)]),
        (node(21).oid, vec![extent(40)]),
    ]);
    let outcome = compute(3, &HashMap::new(), &[node(10), node(12)], &[node(12)], &Changes::default()).unwrap();
    apply(&mut state, outcome);
    drain(&mut state, &edges);
    assert_eq!((state.references(node(20).oid), state.live_units()), (1, 19));
    let outcome = compute(4, &HashMap::new(), &[node(12)], &[], &Changes::default()).unwrap();
    apply(&mut state, outcome);
    drain(&mut state, &edges);
    assert_eq!((state.live_units(), state.shared_objects(), state.live_in(2)), (0, 0, 0));
}

#[test]
fn what_is_unreachable_when_frozen_is_dead_at_once_and_frees_no_range() {
    let objects = unstored(&[(node(10), &[extent(32)]), (extent(32), &[]), (extent(40), &[])], 1);
    let range = |reference: Reference| FreedRange { oid: reference.oid, units: 0..4 };
    let changes = Changes { gone: Vec::new(), freed: vec![range(extent(40)), range(extent(32))] };
    let outcome = compute(1, &objects, &[], &[node(10)], &changes).unwrap();
    assert_eq!(outcome.dead, vec![extent(40).oid]);
    assert_eq!(outcome.ranges.len(), 1);
    let mut state = State::new(4);
    state.open_segment(1, 2);
    apply(&mut state, outcome);
    assert_eq!(state.live_units(), 1 + 4);
}

#[test]
fn a_client_that_breaks_the_law_is_told_before_anything_is_freed() {
    // Still referenced by the root that stays.
    let gone = Changes { gone: vec![Gone { node: node(20), edges: vec![extent(32)] }], freed: Vec::new() };
    let result = compute(2, &HashMap::new(), &[node(10)], &[node(10)], &gone);
    assert!(matches!(result, Err(LawError::GoneButReferenced { delta: 0, .. })));
    let twice = Changes { gone: vec![gone.gone[0].clone(), gone.gone[0].clone()], freed: Vec::new() };
    assert!(matches!(compute(2, &HashMap::new(), &[], &[], &twice), Err(LawError::GoneTwice { .. })));
    let objects = unstored(&[(node(10), &[])], 3);
    assert!(matches!(compute(2, &objects, &[], &[node(10)], &Changes::default()), Err(LawError::FromTheFuture { .. })));
    // Deltas on what is dead, or below zero.
    let (mut state, _) = first();
    let delta = |reference, delta| Batch {
        deltas: vec![envoyfs_layout::batch::Delta { reference, delta }],
        ..Batch::default()
    };
    assert!(matches!(state.apply(&delta(node(25), -1), None), Err(StateError::Dead { .. })));
    let (mut state, _) = first();
    assert!(matches!(state.apply(&delta(extent(32), -2), None), Err(StateError::Negative { count: -1, .. })));
}

#[test]
fn the_count_of_what_only_a_retained_checkpoint_holds_is_not_corrected() {
    let (mut state, _) = first();
    state.retain(HistoryRow {
        checkpoint: 1,
        hlc: Hlc(5),
        wall_ns: 0,
        segment_bound: 9,
        state: HistoryState::Retained,
        roots: node(50),
        roots_twin: node(51),
        deferred: Place::NONE,
        rows: 0,
        units: 0,
    });
    let repair = |action, reference: Reference, delta| Repair { action, reference, first: 0, units: 1, delta };
    state.repair(&repair(RepairAction::Dead, node(20), 0)).unwrap();
    assert_eq!(state.deferred_units(), 1);
    // Found before it died: one too many.
    state.repair(&repair(RepairAction::Count, node(20), -1)).unwrap();
    assert!(state.queue().is_empty(), "its edges would be taken back twice");
    state.repair(&repair(RepairAction::Count, node(21), -1)).unwrap();
    assert_eq!(state.queue().len(), 1, "one that lives");
}

#[test]
fn what_is_left_of_a_moved_fragment_goes_with_the_last_that_lives_in_it() {
    let (mut state, _) = first();
    // As at a mount, when a checkpoint is adopted: nobody reads yet, so nobody is short of anything.
    assert_eq!(buried_in(state.clone()), (vec![], true));
    state.remember_buried(0);
    assert_eq!(buried_in(state.clone()), (vec![], false));
    state.remember_buried(8);
    let left = Fragment { units: 8, container: 3, offset_units: 104 };
    assert_eq!(buried_in(state), (vec![(1, 36, left)], true), "whoever pinned it finds it");
}

fn buried_in(mut state: State) -> (Vec<(u32, u32, Fragment)>, bool) {
    state.move_units(1, 32, Fragment { units: 16, container: 3, offset_units: 100 }).unwrap();
    let dead = |slot, first| BatchRange { oid: extent(slot).oid, first, units: 4 };
    state.apply(&Batch { checkpoint: 2, ranges: vec![dead(32, 4), dead(40, 0)], ..Batch::default() }, None).unwrap();
    state.move_units(1, 32, Fragment { units: 4, container: 0, offset_units: 8 }).unwrap();
    let fragments = |state: &State| -> Vec<(u32, u32)> {
        state.segment(1).unwrap().moved.iter().map(|(slot, fragment)| (*slot, fragment.units)).collect()
    };
    assert_eq!(fragments(&state), [(32, 4), (36, 12)], "units 44 to 48 live");
    state.move_units(1, 44, Fragment { units: 4, container: 0, offset_units: 12 }).unwrap();
    assert_eq!(fragments(&state), [(32, 4), (44, 4)]);
    assert_eq!(state.check(), Vec::<String>::new());
    state.take_buried()
}

#[test]
fn moved_units_are_found_and_counted_where_they_are() {
    let (mut state, _) = first();
    state.move_units(1, 32, Fragment { units: 16, container: 3, offset_units: 100 }).unwrap();
    assert_eq!((state.live_in(2), state.live_in(3)), (3, 16));
    state.move_units(1, 36, Fragment { units: 4, container: 0, offset_units: 8 }).unwrap();
    assert_eq!((state.live_in(3), state.live_in(0)), (12, 4));
    assert_eq!(state.locate(1, &(34..42)), vec![(Some(3), 102, 2), (Some(0), 8, 4), (Some(3), 108, 2)]);
    assert_eq!(state.check(), Vec::<String>::new());
    let page = state.page(1).unwrap();
    let again = Segment::of_page(&page);
    assert_eq!(again.page(1), page);
    assert_eq!(Some(&again), state.segment(1));
}

#[test]
fn an_extent_whose_segment_was_forgotten_loses_its_edges_and_gets_none() {
    let (mut state, _) = first();
    // The extents lie in segments of their own: 2, which is forgotten, and 1.
    let far = Reference { oid: Oid::new(1, 2, 32), ..extent(32) };
    let objects = unstored(&[(node(11), &[far]), (node(12), &[node(13), far]), (node(13), &[]), (far, &[])], 2);
    state.open_segment(2, 3);
    let outcome = compute(2, &objects, &[node(10)], &[node(10), node(11), node(12)], &Changes::default()).unwrap();
    apply(&mut state, outcome);
    assert_eq!(state.shared_objects(), 1);
    let changes = Changes { gone: Vec::new(), freed: vec![FreedRange { oid: far.oid, units: 0..far.units() }] };
    let outcome = compute(3, &HashMap::new(), &[node(10), node(11), node(12)], &[node(10)], &changes).unwrap();
    apply(&mut state, outcome);
    state.release(3, 2);
    assert_eq!(state.forget_empty(), [2]);
    assert_eq!((state.shared_objects(), state.queue().len()), (0, 2));
    drain(&mut state, &[(node(11).oid, vec![far]), (node(12).oid, vec![node(13), far])].into());
    assert_eq!((state.live_units(), state.check()), (19, Vec::new()));
    // What only the engine or a client does wrong.
    let delta = |reference, delta| Batch { deltas: vec![Delta { reference, delta }], ..Batch::default() };
    let unknown = Reference { oid: Oid::new(1, 2, 40), ..node(40) };
    for (reference, by) in [(far, 1), (unknown, -1), (unknown, 1)] {
        let refused = state.clone().apply_law(&delta(reference, by));
        assert_eq!(refused, Err(StateError::Dead { oid: reference.oid, delta: by }));
    }
}

/// A list of pages in memory: what is written, by place.
#[derive(Default)]
struct Pages(Vec<Vec<u8>>);

impl Pages {
    fn write(&mut self, state: &mut State, sparse: &[u32]) -> usize {
        let before = self.0.len();
        let done = state.write_lists(&sparse.iter().copied().collect(), |bytes| {
            // A container a page.
            let stored_bytes = u32::try_from(bytes.len()).unwrap();
            self.0.push(bytes);
            Ok::<_, ()>(Place { container: u32::try_from(self.0.len()).unwrap(), stored_bytes, ..Place::NONE })
        });
        done.unwrap();
        self.0.len() - before
    }

    /// As a mount reads it.
    fn read(&self, first: Place) -> State {
        let (mut pages, mut place) = (Vec::new(), first);
        while !place.is_none() {
            let (page, next) = ListPage::decode(&self.0[place.container as usize - 1]).unwrap();
            let ListPage::Unreadable(rows) = page else { panic!("{page:?}") };
            pages.push((rows, place));
            place = next;
        }
        let mut state = State::new(4);
        for (rows, place) in pages.iter().rev() {
            state.load_unreadable(rows, *place);
            state.pages.add(*place);
        }
        state
    }
}

#[test]
fn unreadable_nodes_are_listed_however_many_and_only_pages_that_change_are_written() {
    let nodes: Vec<Reference> = (0..5000).map(|slot| node(slot * 2)).collect();
    let (mut state, mut pages) = (State::new(4), Pages::default());
    let mut listed: Vec<Reference> = Vec::new();
    let list = |state: &mut State, listed: &mut Vec<Reference>, node: &Reference| {
        state.queue_mut().push(*node);
        let drop = Drop { object: node.oid, stored_bytes: 512, edges: Vec::new(), unreadable: true };
        state.apply_drop(&drop).unwrap();
        listed.push(*node);
    };
    let readable = |oid| Repair {
        action: RepairAction::Readable,
        reference: Reference { oid, ..node(0) },
        first: 0,
        units: 1,
        delta: 0,
    };
    for (step, node) in nodes.iter().enumerate() {
        list(&mut state, &mut listed, node);
        if step % 700 == 699 {
            let written = pages.write(&mut state, &[]);
            assert!((1..=2).contains(&written), "{written} pages written");
        }
        // One that a mark could read, now and then.
        if step % 1300 == 1299 {
            let gone = listed.remove(step / 3);
            state.repair(&readable(gone.oid)).unwrap();
            pages.write(&mut state, &[]);
        }
        if step % 990 == 0 {
            let mounted = pages.read(state.unreadable_page());
            assert_eq!(listed[..mounted.unreadable().len()], *mounted.unreadable());
        }
    }
    pages.write(&mut state, &[]);
    assert_eq!(pages.write(&mut state, &[]), 0, "nothing changed");
    // A page in a container that is to be emptied, the second one.
    let mut again = pages.read(state.unreadable_page());
    assert_eq!((again.unreadable(), again.pages.units()), (&*listed, state.pages.units()));
    let second = state.unreadable.pages[1].0.container;
    let kept = state.unreadable.pages[0].0;
    assert!(pages.write(&mut again, &[second]) >= 4);
    assert_eq!((again.unreadable.pages[0].0, again.pages.of(second)), (kept, 0));
    assert_eq!(pages.read(again.unreadable_page()).unreadable(), listed);
    // And all of them are read in the end.
    for node in listed.iter().rev() {
        again.repair(&readable(node.oid)).unwrap();
    }
    assert_eq!((pages.write(&mut again, &[]), again.unreadable_page(), again.pages.units()), (0, Place::NONE, 0));
}
