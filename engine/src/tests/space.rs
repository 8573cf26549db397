use super::client::*;
use crate::store::{Batch, Changes, Draft, Gone, Need, Reason, Roots, Store, Tier};
use crate::{HistoryPolicy, StoreError};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind, edges};
use envoyfs_layout::{Reference, ReferenceKind, UNIT};

/// Objects of 48 KiB until there is no room; how many.
pub(super) fn fill(client: &mut Client, tree: u32) -> u32 {
    for key in 0.. {
        match client.run(&Op::Write { tree, key, seed: u64::from(key) + 1, len: 48 << 10 }) {
            Ok(()) => {}
            Err(StoreError::NoSpace { .. }) => return key,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

#[test]
fn a_full_store_can_still_delete_and_then_write_again() {
    let (_, mut client) = fresh(16, 512, 3);
    let mut last = 0;
    for round in 0..4 {
        let keys = fill(&mut client, 0);
        assert!(keys > 50, "round {round}: only {keys} objects fit");
        if round > 0 {
            assert!(keys + 8 >= last, "round {round}: {keys} objects fit, {last} before");
        }
        last = keys;
        client.verify();
        if round % 2 == 0 {
            for key in 0..keys {
                client.run(&Op::Delete { tree: 0, key }).unwrap();
            }
        } else {
            client.run(&Op::Drop { tree: 0 }).unwrap();
        }
        client.quiesce_and_check();
    }
}

#[test]
fn forks_and_their_deletion_work_at_zero_user_space() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    for round in 0..30 {
        // Last tier: a fork, and its deletion; in between what only shrinks (INV-26).
        client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
        client.run(&Op::Delete { tree: 1, key: round % keys }).unwrap();
        client.checkpoint().unwrap();
        client.run(&Op::Drop { tree: 1 }).unwrap();
        assert!(matches!(
            client.run(&Op::Write { tree: 2, key: 0, seed: 1, len: 48 << 10 }),
            Ok(()) | Err(StoreError::NoSpace { .. })
        ));
        client.checkpoint().unwrap();
        assert_eq!(client.engine.check_space(), Vec::<String>::new(), "round {round}");
    }
    client.verify();
    client.quiesce_and_check();
}

#[test]
fn fragmented_segments_are_cleaned_and_the_survivors_read() {
    for block in [512, 4096] {
        let (device, mut client) = fresh(16, block, 3);
        let keys = fill(&mut client, 0);
        // Every segment keeps a little.
        for key in (0..keys).filter(|key| key % 4 != 0) {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
        }
        client.checkpoint().unwrap();
        let more = fill(&mut client, 1);
        assert!(more * 10 > keys * 5, "{more} objects fit after three quarters of {keys} were deleted");
        client.verify();
        client.quiesce_and_check();
        client.commit().unwrap();
        let want = client.logical();
        client = Client::start(open(&device.process_crash(), &client.clock).unwrap(), client.clock.clone());
        assert_eq!(client.logical(), want);
        client.run(&Op::Drop { tree: 0 }).unwrap();
        client.run(&Op::Drop { tree: 1 }).unwrap();
        client.quiesce_and_check();
        client.quiesce_and_check();
        assert!(fill(&mut client, 2) + 8 >= keys);
        client.verify();
    }
}

#[test]
fn what_was_admitted_and_has_no_record_yet_makes_no_checkpoint_due() {
    let (_, client) = fresh(16, 512, 3);
    let dirty = client.engine.writer().unwrap().admission.budget.dirty_max;
    assert!(client.engine.wait_checkpoint(0).is_none());
    let need = Need { log_bytes: 100, node_bytes: dirty, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    let permit = client.engine.reserve(need).unwrap();
    assert!(client.engine.wait_checkpoint(0).is_none(), "it could not take anything");
    drop(permit);
}

#[test]
fn who_makes_way_does_not_wait_for_the_containers_of_a_writers_data() {
    let (device, client) = fresh(16, 512, 3);
    let (device, engine) = (device.slow(true), &client.engine);
    let space = &engine.writer().unwrap().space;
    space.wait_writes().unwrap();
    let (before, opened) = (device.counters().writes, space.openings());
    while space.openings() < opened + 3 {
        let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 65_536, tier: Tier::Writer };
        let mut permit = engine.reserve(need).unwrap();
        let object = engine.append_data(&mut permit, None, &[7; 65_536]).unwrap();
        engine.abandon_data(&object);
    }
    let submitted = device.counters().writes - before;
    space.make_way(0);
    let under_way = device.poll(usize::MAX) as u64;
    assert!(under_way >= 4 && under_way == submitted, "{under_way} of {submitted} are under way");
}

/// Leaves of tiny extents. What a leaf refers to was written in as many publications as it has extents, and so lies in several segments; leaves of all ages together, in all of them.
struct Scattered {
    client: Client,
    /// Groups that are not complete yet: their extents hang in the top nodes.
    open: Vec<Vec<Reference>>,
    leaves: Vec<Reference>,
    top: Vec<Reference>,
    gone: Vec<Gone>,
}

const GROUPS: usize = 40;
const LEAF_EXTENTS: usize = 300;

impl Scattered {
    /// A checkpoint, with so many more extents for each group.
    fn publish(&mut self, grows: usize) -> Result<(), StoreError> {
        let engine = &self.client.engine;
        let frozen = engine.freeze()?;
        let birth = frozen.hlc;
        let node = |references: &[Reference]| {
            let mut builder = NodeBuilder::new(TreeKind::Extents, 1, birth, Owner::default());
            for (key, reference) in (0_u32..).zip(references) {
                builder.push(&key.to_be_bytes(), b"", &[*reference]).unwrap();
            }
            engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish())
        };
        // Neighbours belong to different groups.
        for number in 0..grows * GROUPS {
            let object = engine.append_payload(Batch::Frozen, birth, &content(number as u64, 0, 512))?;
            if let Some(group) = self.open.get_mut(number % GROUPS) {
                group.push(Reference::extent(object.oid, birth, object.stored_bytes));
            }
        }
        for group in &mut self.open {
            if group.len() >= LEAF_EXTENTS {
                let complete = std::mem::take(group);
                // Each has a twin, so that all extents have a count that stands in the page.
                self.leaves.extend([node(&complete)?, node(&complete)?]);
            }
        }
        for top in self.top.drain(..) {
            self.gone.push(Gone { node: top, edges: edges(&engine.read_node(&top)?).unwrap() });
        }
        let all: Vec<Reference> = self.open.iter().flatten().chain(&self.leaves).copied().collect();
        for part in all.chunks(300) {
            self.top.push(node(part)?);
        }
        let roots = Roots { references: self.top.clone(), blob: Vec::new() };
        engine.publish(frozen, roots, Changes { gone: std::mem::take(&mut self.gone), freed: Vec::new() })
    }

    /// An operation that may have to wait; false if it would, or there is no space.
    fn operation(&self, bytes: u64, tier: Tier) -> Result<bool, StoreError> {
        let need = Need { log_bytes: 64, node_bytes: bytes, payload_bytes: 0, data_bytes: 0, tier };
        let engine = &self.client.engine;
        let mut permit = match engine.reserve(need) {
            Ok(permit) => permit,
            Err(StoreError::WouldWait { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let draft = Draft { kind: 300, territory: 1, origin: None, data: &[], body: &[9; 21] };
        engine.append(&mut permit, draft)?;
        Ok(true)
    }
}

/// INV-25: something dies in every segment at once, with no more free containers than deletions were promised at first, and the publication has room for all pages.
#[test]
fn a_publication_in_which_every_segment_changes_has_room_for_its_pages() {
    let (_, client) = fresh(128, 512, 3);
    client.engine.retain(HistoryPolicy::NONE);
    let open = vec![Vec::new(); GROUPS];
    let mut store = Scattered { client, open, leaves: Vec::new(), top: Vec::new(), gone: Vec::new() };
    // Until writers are refused: top nodes and leaves that are written anew, and 320 KiB.
    while match store.operation(1200 << 10, Tier::Writer) {
        Ok(_) => true,
        Err(StoreError::NoSpace { .. }) => false,
        Err(error) => panic!("{error}"),
    } {
        store.publish(16).unwrap();
    }
    assert!(store.leaves.len() > 300, "{} leaves", store.leaves.len());
    let (mut number, mut most, mut deleted, mut held) = (0, 0, 0, Vec::new());
    for batch in 0..20 {
        // Five containers beside the nodes of twenty deletions, which was once kept whatever there is of pages; and plenty.
        for free in [7, 60] {
            squeeze(&store.client.engine, free, &mut held);
            let mut operations = 0;
            while operations < 20 && matches!(store.operation(16 << 10, Tier::Shrinking), Ok(true)) {
                // Of all ages.
                number += store.leaves.len() / 20 + 1;
                let leaf = store.leaves.swap_remove(number % store.leaves.len());
                let edges = edges(&store.client.engine.read_node(&leaf).unwrap()).unwrap();
                store.gone.push(Gone { node: leaf, edges });
                operations += 1;
            }
            deleted += operations;
            let pages = |store: &Scattered| store.client.engine.metrics().streams.page_bytes.get();
            let before = pages(&store);
            store.publish(0).unwrap_or_else(|error| {
                panic!("batch {batch}, {free} containers free, {operations} deletions: {error}")
            });
            most = most.max(pages(&store) - before);
        }
    }
    let container = u64::from(store.client.engine.shape.segment_bytes);
    println!("{deleted} deletions, pages of up to {most} bytes a publication, containers of {container}");
    assert!(most > 4 * container && deleted > 100, "{deleted} deletions, {most} bytes of pages");
    squeeze(&store.client.engine, u32::MAX, &mut held);
    assert_eq!(store.client.engine.check_space(), Vec::<String>::new());
}

#[test]
fn with_hardly_a_free_container_a_dropped_tree_is_still_worked_off() {
    let (_, mut client) = fresh(16, 512, 3);
    client.engine.retain(HistoryPolicy::NONE);
    for key in 0..300 {
        client.run(&Op::Write { tree: 1, key, seed: key.into(), len: 4096 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.run(&Op::Drop { tree: 1 }).unwrap();
    let (mut held, mut left) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        squeeze(&client.engine, 2, &mut held);
        client.checkpoint().unwrap();
        let queued = client.engine.usage().drop_queue;
        for free in [0, 2] {
            squeeze(&client.engine, free, &mut held);
            let due = client.engine.wait_checkpoint(0);
            assert_eq!(due, (queued > 0 && free > 0).then_some(Reason::Reclaim), "{free} free, {queued} in the queue");
        }
        left.push(queued);
    }
    // The first publication queues what the tree refers to.
    assert!(left[0] > 0 && left[39] == 0, "{left:?}");
    squeeze(&client.engine, u32::MAX, &mut held);
    client.quiesce_and_check();
}

/// Takes free containers away, or gives them back, until so many are free.
pub(super) fn squeeze(engine: &crate::Engine, free: u32, held: &mut Vec<u32>) {
    let space = &engine.writer().unwrap().space;
    while space.free_containers() > free {
        let container = space.with_containers(|all| all.first_free()).unwrap();
        space.occupy(container);
        held.push(container);
    }
    while space.free_containers() < free {
        let Some(container) = held.pop() else { return };
        space.release(container);
    }
}

/// Leaves that each reach into eight segments: every node worked off dirties as many pages, and those cost more than the node's edges in the batch.
#[test]
fn deleting_scattered_trees_takes_pages_and_batch_together_no_more_than_its_pace() {
    // Of each of two trees.
    const KEYS: u32 = 1501;
    let (_, mut client) = fresh_with_segments(24, 512, 3, 256 << 10);
    client.engine.retain(HistoryPolicy::NONE);
    for nth in 0..2 * KEYS {
        let (tree, key) = (nth % 2, nth / 2 * 617 % KEYS);
        client.run(&Op::Write { tree, key, seed: nth.into(), len: 4096 }).unwrap();
        client.history.truncate(1);
    }
    client.checkpoint().unwrap();
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.run(&Op::Drop { tree: 1 }).unwrap();
    let page_bytes = |client: &Client| client.engine.metrics().streams.page_bytes.get();
    let drops = |client: &Client| client.engine.metrics().state.drops.get();
    let mut publications = 0;
    while drops(&client) < 2 * u64::from(KEYS / KEYS_A_LEAF) {
        let (pages, nodes, table) = (page_bytes(&client), drops(&client), client.engine.state.lock().pages.units());
        let writer = client.engine.writer().unwrap();
        let pace = client.engine.pace_of_drops(writer, client.engine.is_short(writer));
        client.checkpoint().unwrap();
        // Beside what counts: the pages of the law, those that changed last, and one node more.
        let (took, beside) = (page_bytes(&client) - pages, 3 * u64::from(UNIT) * table);
        assert!(took <= pace + beside, "{took} bytes of pages, {pace} wanted, {beside} beside");
        assert!(drops(&client) > nodes);
        publications += 1;
    }
    assert!(publications > 3, "{publications}");
    client.quiesce_and_check();
}

/// INV-32: no publication would ever look at it, and the sums alone are right: what nobody needs counts as dead.
#[test]
fn a_container_that_nobody_fills_or_closes_is_told_of() {
    let (_, mut client) = fresh(16, 512, 3);
    client.run(&Op::Write { tree: 0, key: 1, seed: 1, len: 60_000 }).unwrap();
    client.checkpoint().unwrap();
    let space = &client.engine.writer().unwrap().space;
    let free = client.engine.usage().free;
    let lost = space.with_containers(|all| all.first_free()).unwrap();
    space.occupy(lost);
    assert_eq!(client.engine.check_space(), [format!("container {lost} is open, and nothing fills it")]);
    assert!(client.engine.usage().free < free);
    space.release(lost);
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
}

/// A publication opens containers before it releases others: who asks meanwhile is not told what would not hold at its end (INV-26).
#[test]
fn nobody_is_refused_for_containers_that_a_publication_takes_and_gives_back() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    let engine = std::sync::Arc::clone(&client.engine);
    let container = engine.writer().unwrap().admission.budget.container_bytes;
    let free = || u64::from(engine.writer().unwrap().space.free_containers());
    let ask = |node_bytes| {
        let need = Need { log_bytes: 100, node_bytes, payload_bytes: 0, data_bytes: 0, tier: Tier::Shrinking };
        engine.reserve(need).map(drop)
    };
    let mut amid = 0;
    for key in 0..keys {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
        client.checkpoint().unwrap();
        // Nothing is gained, and so the largest operation there is room for may go as deep as any.
        let (mut before, mut waits) = (free(), 0);
        while let Err(error) = ask((before - 3) * container) {
            assert!(matches!(error, StoreError::WouldWait { .. }) && waits < 3, "key {key}: {error}");
            client.checkpoint().unwrap();
            (before, waits) = (free(), waits + 1);
        }
        let building = client.build().unwrap();
        let mut show = || {
            if free() < before {
                amid += 1;
                let asked = ask((before - 3) * container);
                assert!(matches!(asked, Err(StoreError::WouldWait { .. })), "key {key}: {asked:?}");
            }
        };
        client.finish_and_show(building, &mut show).unwrap();
    }
    assert!(amid > 0, "no publication took a container for a while");
}

/// Records that came between freeze and publication are in none yet.
#[test]
fn what_was_deleted_beside_a_publication_makes_room_for_a_write() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    assert!(client.engine.writer().unwrap().admission.ledger.lock().hopeless());
    let building = client.build().unwrap();
    for key in 0..30 {
        client.try_run(&Op::Delete { tree: 0, key }).unwrap();
    }
    client.finish(building).unwrap();
    let written = client.run(&Op::Write { tree: 0, key: 0, seed: 3, len: 48 << 10 });
    assert!(written.is_ok(), "after 30 of {keys} were deleted: {written:?}");
}
