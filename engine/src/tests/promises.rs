//! Who was admitted is not told that there is no space: whatever has been taken since, and wherever his data goes.

use super::client::*;
use super::space::squeeze;
use crate::Engine;
use crate::space::{HEADER_UNITS, RowOf};
use crate::store::{DataHint, DataObject, Need, Permit, Result, Store, Tier};
use envoyfs_layout::{BLOCK, Hlc, Oid, ReferenceKind, UNIT};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

const OBJECT: u32 = 4096;

fn ask(engine: &Engine, data_bytes: u32, tier: Tier) -> Result<Permit> {
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: data_bytes.into(), tier };
    engine.reserve(need)
}

fn write(engine: &Engine, permit: &mut Permit, bytes: u32, replaces: Option<Oid>) -> Result<DataObject> {
    let hint = DataHint { replaces, ..DataHint::default() };
    engine.append_part(permit, &hint, &vec![7; bytes as usize])
}

/// As few containers free as let writers with so much data in, where the cleaner has emptied others; how many.
fn at_the_limit(engine: &Engine, data_bytes: u32, held: &mut Vec<u32>) -> u32 {
    let writer = engine.writer().unwrap();
    let budget = &writer.admission.budget;
    let kept = {
        let ledger = writer.admission.ledger.lock();
        ledger.needed(budget, 0) + ledger.data + u64::from(data_bytes)
    };
    let free = u32::try_from(kept.div_ceil(budget.container_bytes)).unwrap();
    squeeze(engine, free, held);
    writer.cleaning.expect(100);
    assert_eq!(writer.space.free_containers(), free);
    free
}

/// An object of each heat, in containers that are full.
fn full_streams(engine: &Engine) -> [DataObject; 3] {
    let space = &engine.writer().unwrap().space;
    let mut permit = ask(engine, 16 << 20, Tier::Writer).unwrap();
    let middle = write(engine, &mut permit, OBJECT, None).unwrap();
    // What is overwritten at once is hot, what is overwritten after long is cold.
    let hot = write(engine, &mut permit, OBJECT, Some(middle.oid)).unwrap();
    space.numbers.segment.fetch_add(220, Ordering::SeqCst);
    let cold = write(engine, &mut permit, OBJECT, Some(middle.oid)).unwrap();
    for heat in space.heats().all() {
        let row = |_| RowOf { kind: ReferenceKind::Extent, birth: Hlc::ZERO, crc: 0, owner: 0 };
        let mut stream = space.data(heat);
        while stream.has_room(space, OBJECT / UNIT, HEADER_UNITS, 1) {
            stream.place(space, OBJECT, row, false, 0).unwrap();
        }
    }
    let objects = [hot, middle, cold];
    let heats: BTreeSet<_> = objects.iter().map(|object| space.heat_of(object.oid).unwrap().0).collect();
    assert_eq!((heats.len(), space.heats().all().count()), (3, 3));
    objects
}

#[test]
fn data_of_several_heats_finds_its_containers_where_the_bytes_admitted_fit_into_one() {
    let (_, client) = fresh(80, 512, 3);
    let engine = &client.engine;
    let [hot, middle, _] = full_streams(engine);
    let mut held = Vec::new();
    at_the_limit(engine, 3 * OBJECT, &mut held);
    let mut permits: Vec<Permit> = (0..3).map(|_| ask(engine, OBJECT, Tier::Writer).unwrap()).collect();
    let space = &engine.writer().unwrap().space;
    let before = space.free_containers();
    let mut replaced = middle.oid;
    for (permit, after) in permits.iter_mut().zip([Some(hot.oid), None, None]) {
        // Of what was cold, of what was hot and is it no more, and of what has just been written.
        let object = write(engine, permit, OBJECT, Some(replaced)).unwrap();
        replaced = after.unwrap_or(object.oid);
    }
    assert_eq!(space.free_containers(), before - 3);
}

/// What a publication writes is taken from what writers leave alone, and is not there when they come for what they were promised.
#[test]
fn data_admitted_before_a_publication_finds_its_containers_in_the_middle_of_it() {
    let (_, mut client) = fresh(80, 512, 3);
    let engine = std::sync::Arc::clone(&client.engine);
    let writer = engine.writer().unwrap();
    let budget = &writer.admission.budget;
    for key in 0.. {
        let current = writer.admission.ledger.lock().current;
        if current > budget.dirty_max / 2 {
            break;
        }
        client.run(&Op::Small { tree: 0, key, seed: 1, len: 3000 }).unwrap();
    }
    let mut held = Vec::new();
    let free = at_the_limit(&engine, 0, &mut held) + 1;
    squeeze(&engine, free, &mut held);
    let bytes = u32::try_from(budget.container_bytes).unwrap() / 8 / BLOCK * BLOCK;
    let mut permits = Vec::new();
    while let Ok(permit) = ask(&engine, bytes, Tier::Writer) {
        permits.push(permit);
    }
    let building = client.build().unwrap();
    let taken = free - writer.space.free_containers();
    for permit in &mut permits {
        let object = write(&engine, permit, bytes, None).unwrap();
        engine.abandon_data(&object);
    }
    println!("{} permits, {free} free, {taken} taken by the publication", permits.len());
    assert!(permits.len() > 3 && taken > 1);
    drop(permits);
    client.finish(building).unwrap();
    squeeze(&engine, u32::MAX, &mut held);
    client.quiesce_and_check();
}

/// What a publication does by choice, and the cleaner's copies in it, leave promised data alone.
#[test]
fn deletions_and_copies_leave_promised_data_its_containers() {
    let (_, client) = fresh(80, 512, 3);
    let engine = &client.engine;
    let writer = engine.writer().unwrap();
    let container = writer.admission.budget.container_bytes;
    let of = || (engine.pace_of_drops(writer, true), engine.kept_from_survivors_in_a_hurry(writer));
    let mut held = Vec::new();
    let containers = 10;
    let permit = ask(engine, u32::try_from(containers * container).unwrap() / BLOCK * BLOCK, Tier::Writer).unwrap();
    squeeze(engine, u32::try_from(containers).unwrap() + 4, &mut held);
    let (pace, kept) = of();
    assert!(!engine.has_room_for_pages(writer, 2 * container) && engine.has_room_for_pages(writer, container));
    drop(permit);
    let (pace_then, kept_then) = of();
    assert!(engine.has_room_for_pages(writer, 2 * container));
    assert!(pace < container && pace_then > pace, "{pace} {pace_then}");
    assert_eq!(u64::from(kept - kept_then), containers);
}
