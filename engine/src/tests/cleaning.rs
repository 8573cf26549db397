use super::client::*;
use crate::device::Fault;
use crate::scrub::{ScrubOptions, ScrubReport};
use crate::store::*;
use crate::{Engine, HistoryPolicy, Options, Settings};
use envoyfs_layout::Oid;
use envoyfs_layout::directory_page::Place;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Containers of which every fourth object lives.
pub(super) fn fragment(client: &mut Client) {
    for key in 0..120 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    client.checkpoint().unwrap();
    for key in (0..120).filter(|key| key % 4 != 0) {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    client.checkpoint().unwrap();
}

fn fragmented(slow: bool) -> (crate::device::SimulatedDevice, Client) {
    let (device, mut client) = fresh(16, 512, 3);
    fragment(&mut client);
    (device.slow(slow), client)
}

fn living(client: &Client) -> Vec<(u32, Oid, Vec<u32>)> {
    (0..120).step_by(4).map(|key| (key, client.extent_of(0, key))).map(|(key, (oid, crcs))| (key, oid, crcs)).collect()
}

#[test]
fn copies_are_installed_only_when_they_are_written() {
    let (_, mut client) = fragmented(true);
    let objects = living(&client);
    let looks = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&looks);
    *client.engine.after_install.lock() = Some(Box::new(move |engine| {
        for (key, oid, crcs) in &objects {
            // Nothing drives a slow device here: what is not written yet cannot be read.
            let mut bytes = vec![0; 20_480];
            engine.read_data(*oid, 0, crcs, &mut bytes).unwrap_or_else(|error| panic!("key {key}: {error}"));
            assert_eq!(bytes[..20_000], content(u64::from(*key), 0, 20_000));
        }
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let mut victims = 0;
    while client.engine.clean_anyway().unwrap() {
        victims += 1;
        assert!(victims < 100);
    }
    assert!(victims > 3, "{victims} victims");
    client.checkpoint().unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    let moved = client.engine.metrics().cleaner.moved.get();
    assert!(moved >= 20, "{moved} moved");
    client.verify();
    client.quiesce_and_check();
}

#[test]
fn cleaning_between_checkpoints_keeps_no_more_pages_than_are_asked_for() {
    let (_, client) = fragmented(true);
    let most = client.engine.options.settings.segment_cache_bytes;
    let mut victims = 0;
    while client.engine.clean_anyway().unwrap() {
        victims += 1;
        let loaded = client.engine.state.lock().loaded_bytes();
        assert!(loaded <= most, "{loaded} bytes of pages after {victims} victims");
    }
    assert!(victims > 3, "{victims} victims");
}

/// What died before it was installed changes no page, and so no page would take the slot map out of memory again.
#[test]
fn copies_of_what_died_keep_no_slot_map_in_memory() {
    let (device, mut client) = fragmented(false);
    client.commit().unwrap();
    let device = device.process_crash();
    let settings = Settings { segment_cache_bytes: 1, history: HistoryPolicy::NONE, ..tight() };
    let clock: Arc<dyn crate::hlc::Clock> = client.clock.clone();
    let options = Options { threads: false, settings, clock, ..Options::default() };
    client = Client::start(Engine::open(Arc::new(device.clone()), options).unwrap(), client.clock.clone());
    // One object stays at home, since it cannot be read; what else lives in its segment is copied, and dies.
    let at = place_of(&device, &content(8, 4096, 512));
    device.inject(Fault::ReadError { offset: at });
    while client.engine.clean_anyway().unwrap() {}
    let segment = client.extent_of(0, 8).0.segment();
    let others: Vec<u32> = living(&client)
        .into_iter()
        .filter_map(|(key, oid, _)| (key != 8 && oid.segment() == segment).then_some(key))
        .collect();
    assert!(!others.is_empty());
    others.iter().for_each(|key| client.run(&Op::Delete { tree: 0, key: *key }).unwrap());
    client.checkpoint().unwrap();
    assert!(client.engine.metrics().cleaner.moved.get() > 0);
    assert_eq!(client.engine.reader.pinned_maps(), 0);
}

/// Its looks at victims end with pages being forgotten, also between publications.
#[test]
fn who_looks_at_all_pages_is_not_disturbed_by_the_cleaner() {
    let (_, client) = fragmented(false);
    let engine = &client.engine;
    let writer = engine.writer().unwrap();
    let (segments, containers) = (engine.segments(), engine.candidates(&writer.space));
    let rows: Vec<_> = containers
        .iter()
        .filter_map(|(number, _)| Some((*number, writer.space.with_containers(|all| all.get(*number).copied())?)))
        .collect();
    let trimmed = AtomicU32::new(0);
    let found: Vec<String> = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut found = Vec::new();
            while found.is_empty() && trimmed.load(Ordering::Relaxed) < 100 {
                found.extend(engine.check_space());
                found.extend((engine.liveness().len() != segments.len()).then(|| "liveness of some".into()));
            }
            found
        });
        while !looks.is_finished() {
            let cleaning = writer.cleaning.hold();
            rows.iter().for_each(|(container, row)| drop(engine.pieces_of(*container, row)));
            (0..100).for_each(|_| engine.state.lock().trim(0));
            drop(cleaning);
            trimmed.fetch_add(1, Ordering::Relaxed);
        }
        looks.join().unwrap()
    });
    assert_eq!(found, Vec::<String>::new());
}

/// A choice is of several victims. Those that die before their turn are released by a publication, filled again, and closed.
#[test]
fn what_was_chosen_before_a_publication_is_not_cleaned_after_it() {
    let (_, mut client) = fresh(16, 512, 3);
    client.engine.retain(HistoryPolicy::NONE);
    fragment(&mut client);
    assert!(client.engine.clean_anyway().unwrap());
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.quiesce();
    for key in 0..45 {
        client.try_run(&Op::Write { tree: 1, key, seed: key.into(), len: 64 << 10 }).unwrap();
    }
    let writer = client.engine.writer().unwrap();
    for _ in 0..8 {
        client.engine.clean_anyway().unwrap();
    }
    let coming = writer.cleaning.coming();
    client.checkpoint().unwrap();
    let writer = client.engine.writer().unwrap();
    assert_eq!(writer.cleaning.hold().damaged(), &BTreeSet::new(), "{coming} containers were called empty");
    client.quiesce_and_check();
    client.verify();
}

#[test]
fn what_does_not_verify_is_not_copied_and_can_still_be_repaired() {
    let (device, mut client) = fragmented(false);
    let want = content(8, 4096, 512);
    let image = device.image();
    let mut held = vec![0; 512];
    let at = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut held);
        held == want
    });
    let flip = Fault::FlipBits { offset: at.unwrap() + 100, mask: 4 };
    device.inject(flip);
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    assert_eq!(client.engine.metrics().cleaner.damaged.get(), 1);
    let (oid, crcs) = client.extent_of(0, 8);
    let mut into = vec![0; 4096];
    let result = client.engine.read_data(oid, 4096, &crcs[1..2], &mut into);
    assert!(matches!(result, Err(crate::StoreError::Damaged { oid: found, .. }) if found == oid), "{result:?}");
    // The bytes are where they were: what heals them there heals the object.
    device.inject(flip);
    client.verify();
    // And nobody looks at that container again and again.
    while client.engine.clean_anyway().unwrap() {}
    assert_eq!(client.engine.metrics().cleaner.damaged.get(), 1);
    client.quiesce_and_check();
}

#[test]
fn what_the_device_does_not_give_is_not_copied_and_is_there_when_it_gives_it_again() {
    let (device, mut client) = fragmented(false);
    let at = place_of(&device, &content(8, 4096, 512));
    device.inject(Fault::ReadError { offset: at });
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    let counts = &client.engine.metrics().cleaner;
    let unreadable = counts.unreadable.get();
    assert!(unreadable > 0 && counts.moved.get() > 20, "{unreadable} unreadable, {} moved", counts.moved.get());
    assert_eq!(counts.damaged.get(), 0, "what cannot be read is not damaged");
    let (oid, crcs) = client.extent_of(0, 8);
    let result = client.engine.read_data(oid, 4096, &crcs[1..2], &mut vec![0; 4096]);
    assert!(matches!(result, Err(crate::StoreError::Unreadable { oid: found, .. }) if found == oid), "{result:?}");
    device.inject(Fault::Readable { offset: at });
    client.verify();
    while client.engine.clean_anyway().unwrap() {}
    client.quiesce_and_check();
    client.verify();
}

/// Where these bytes lie on the device.
fn place_of(device: &crate::device::SimulatedDevice, want: &[u8]) -> u64 {
    let image = device.image();
    let mut held = vec![0; 512];
    let at = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut held);
        held == want
    });
    at.unwrap()
}

/// One flipped bit in the extent of key 8 of three: the cleaner leaves it where it is, and the scrub finds it there; healed, all is well.
fn rot_stays_and_is_found(device: &crate::device::SimulatedDevice, client: &mut Client, rotten: u64, read: u32) {
    let flip = Fault::FlipBits { offset: rotten, mask: 4 };
    device.inject(flip);
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    assert!(client.engine.metrics().cleaner.damaged.get() > 0, "it was copied");
    let report = client.engine.scrub(ScrubOptions::default(), |_: &ScrubReport| ControlFlow::Continue(())).unwrap();
    assert!(!report.findings.is_empty(), "{report:?}");
    device.inject(flip);
    let (oid, crcs) = client.extent_of(0, 8);
    let mut into = vec![0; 4096];
    client.engine.read_data(oid, read, &crcs[(read / 4096) as usize..][..1], &mut into).unwrap();
    client.verify();
    client.quiesce_and_check();
}

#[test]
fn an_extent_of_many_pieces_is_copied_only_if_all_of_it_verifies() {
    let (device, mut client) = fresh_with_segments(64, 512, 3, 1 << 20);
    for key in 0..40 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 256 << 10 }).unwrap();
    }
    client.checkpoint().unwrap();
    for key in (0..40).filter(|key| key % 8 != 0) {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    client.checkpoint().unwrap();
    // In its last piece: the first ones are copied by then, if each is taken for itself.
    let at = place_of(&device, &content(8, 252 << 10, 512));
    rot_stays_and_is_found(&device, &mut client, at + 100, 252 << 10);
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    client.verify();
}

#[test]
fn what_does_not_verify_does_not_keep_the_rest_of_its_container() {
    let (device, mut client) = fresh_with_segments(128, 512, 3, 4 << 20);
    for key in 0..8 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 1 << 20 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.run(&Op::Delete { tree: 0, key: 2 }).unwrap();
    client.checkpoint().unwrap();
    // All that a step takes: the first extent of the container.
    let at = place_of(&device, &content(0, 0, 512));
    device.inject(Fault::FlipBits { offset: at + 100, mask: 4 });
    client.engine.clean_anyway().unwrap();
    let counts = &client.engine.metrics().cleaner;
    assert!(counts.damaged.get() > 0, "another container was cleaned");
    assert!(counts.moved_data_bytes.get() >= 1 << 20, "{} bytes moved", counts.moved_data_bytes.get());
}

/// A victim of which nothing verifies is not a lack of room: the publication goes on with the next one, and writers get what it can give.
#[test]
fn damage_does_not_end_the_cleaning_of_a_publication() {
    let (device, mut client) = fragmented(false);
    let free = |client: &Client| client.engine.writer().unwrap().space.free_containers();
    let target = client.engine.clean_target(client.engine.writer().unwrap());
    for key in 1000.. {
        if free(&client) < target {
            break;
        }
        client.run(&Op::Write { tree: 1, key, seed: key.into(), len: 60_000 }).unwrap();
    }
    // Of the containers with little that lives, all but the last are damaged. What was moved already has no home.
    let home = |client: &Client, key: u32| client.engine.reader.container_of(client.extent_of(0, key).0);
    let keys: Vec<(u32, u32)> = (0..120).step_by(4).filter_map(|key| Some((key, home(&client, key)?))).collect();
    let (last, whole) = *keys.last().unwrap();
    for (key, container) in keys.iter().filter(|(_, container)| *container != whole) {
        let at = client.engine.shape.offset(*container, client.extent_of(0, *key).0.slot().into());
        device.inject(Fault::FlipBits { offset: at + 100, mask: 4 });
    }
    let counts = |client: &Client| {
        let cleaner = &client.engine.metrics().cleaner;
        (cleaner.victims.get(), cleaner.emptied.get())
    };
    let before = counts(&client);
    client.engine.writer().unwrap().admission.ledger.lock().wanted = Some(Reason::Reclaim);
    client.checkpoint().unwrap();
    let after = counts(&client);
    let (victims, emptied) = (after.0 - before.0, after.1 - before.1);
    println!("{victims} victims, {emptied} emptied, {keys:?}");
    assert!(victims > emptied, "nothing damaged was looked at: {victims} victims");
    assert_ne!(home(&client, last), Some(whole), "what could be copied was not");
}

#[test]
fn what_is_left_of_an_extent_is_copied_only_if_the_whole_verifies() {
    let (device, mut client) = fragmented(false);
    // Younger than the tree, so that nobody else can have them.
    tick(&client.clock);
    for key in (0..120).step_by(4) {
        client.run(&Op::Write { tree: 0, key, seed: 1000 + u64::from(key), len: 20_000 }).unwrap();
    }
    client.checkpoint().unwrap();
    for key in (0..120).step_by(8) {
        client.run(&Op::Punch { tree: 0, key }).unwrap();
    }
    client.checkpoint().unwrap();
    let at = place_of(&device, &content(1008, 12_288, 512));
    rot_stays_and_is_found(&device, &mut client, at + 100, 12_288);
    let damaged = client.engine.metrics().cleaner.damaged.get();
    // What is copied in part verifies by its own row: cleaned again, and scrubbed.
    for _ in 0..2 {
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
    }
    let report = client.engine.scrub(ScrubOptions::default(), |_: &ScrubReport| ControlFlow::Continue(())).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(client.engine.metrics().cleaner.damaged.get(), damaged);
}

#[test]
fn what_dies_or_is_cleaned_twice_between_copying_and_installing_is_left_out() {
    let (_, mut client) = fragmented(false);
    while client.engine.clean_anyway().unwrap() {}
    for key in (0..120).step_by(8) {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    for key in (4..120).step_by(16) {
        client.run(&Op::Punch { tree: 0, key }).unwrap();
    }
    client.checkpoint().unwrap();
    client.verify();
    // Copies lie in containers that are cleaned in their turn.
    for _ in 0..3 {
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
        client.verify();
    }
    client.quiesce_and_check();
}

#[test]
fn no_page_names_places_in_which_nothing_lives() {
    let (_, mut client) = fragmented(false);
    let mut moved = 0;
    for round in 0..4 {
        while client.engine.clean_anyway().unwrap() {}
        // Runs of several objects that lie beside each other since they were copied get holes.
        for key in (0..120).step_by(4).filter(|key| key / 4 % 4 == round) {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
        }
        client.checkpoint().unwrap();
        for key in 0..8 {
            client.run(&Op::Write { tree: 1, key, seed: u64::from(round * 8 + key), len: 20_000 }).unwrap();
        }
        client.quiesce_and_check();
        let state = client.engine.state.lock();
        for number in state.table().keys() {
            let segment = state.segment(*number).unwrap();
            for (slot, fragment) in &segment.moved {
                let units = *slot..slot + fragment.units;
                assert!(!segment.live.inside(&units).is_empty(), "round {round}: segment {number}: {units:?}");
                moved += 1;
            }
        }
    }
    assert!(moved > 10, "{moved}");
}

#[test]
fn rows_of_survivors_say_owner_and_birth() {
    let (_, mut client) = fresh(16, 512, 3);
    let need = Need { log_bytes: 100, node_bytes: 1, payload_bytes: 0, data_bytes: 8192, tier: Tier::Writer };
    let mut permit = client.engine.reserve(need).unwrap();
    let hint = DataHint { owner: 77, ..DataHint::default() };
    let object = client.engine.append_part(&mut permit, &hint, &[1; 8192]).unwrap();
    let draft = Draft { kind: 300, territory: 1, origin: None, data: std::slice::from_ref(&object), body: &[7; 21] };
    let appended = client.engine.append(&mut permit, draft).unwrap();
    client.checkpoint().unwrap();
    let container = client.engine.reader.container_of(object.oid).unwrap();
    let writer = client.engine.writer().unwrap();
    let part = writer.space.with_containers(|containers| containers.get(container).unwrap().last_part);
    let part = client.engine.table_part(container, part).unwrap();
    let row = part.rows.iter().find(|row| row.oid == object.oid).unwrap();
    assert_eq!((row.owner, row.birth), (77, appended.hlc.birth()));
}

#[test]
fn the_end_of_a_container_is_filled_with_the_head_of_an_object() {
    let (_, mut client) = fresh(16, 512, 3);
    let mut written: u64 = 0;
    let mut last: Option<(Oid, u32)> = None;
    let mut segments = std::collections::BTreeSet::new();
    while segments.len() < 6 {
        let need = Need { log_bytes: 100, node_bytes: 1, payload_bytes: 0, data_bytes: 65536, tier: Tier::Writer };
        let mut permit = client.engine.reserve(need).unwrap();
        let data = vec![1; 65536];
        let mut at = 0;
        while at < data.len() {
            let hint = DataHint { after: last, ..DataHint::default() };
            let object = client.engine.append_part(&mut permit, &hint, &data[at..]).unwrap();
            at += object.stored_bytes as usize;
            written += u64::from(object.stored_bytes);
            if let Some((before, bytes)) = last.filter(|(before, _)| before.segment() == object.oid.segment()) {
                assert_eq!(object.oid.0, before.0 + u64::from(bytes / 512), "one writer's objects are adjacent");
            }
            last = Some((object.oid, object.stored_bytes));
            segments.insert(object.oid.segment());
            client.engine.abandon_data(&object);
        }
    }
    let full = 5 * client.engine.shape.segment_bytes as u64;
    assert!(written * 100 >= full * 93, "{written} of {full} bytes");
    client.checkpoint().unwrap();
}

/// Decision 0009, "Before anybody waits": a checkpoint that is short of free containers first counts those in which nothing lives any more, and copies for what is missing then; also
/// when somebody waits for it.
#[test]
fn what_died_by_itself_is_counted_before_anything_is_copied() {
    for somebody_waits in [false, true] {
        let device = crate::device::SimulatedDevice::new(32 << 20, 512, 3);
        small_format(&device);
        let history = HistoryPolicy { checkpoints_max: 0, ..HistoryPolicy::default() };
        let clock = clock();
        let options = Options {
            read_only: false,
            threads: false,
            accept_loss: false,
            clock: Arc::<crate::hlc::ManualClock>::clone(&clock),
            settings: Settings { history, ..Settings::default() },
        };
        let mut client = Client::start(Engine::open(Arc::new(device), options).unwrap(), clock);
        let free = |client: &Client| client.engine.writer().unwrap().space.free_containers();
        let target = client.engine.clean_target(client.engine.writer().unwrap());
        let write = |client: &mut Client, key: u32, seed: u32, len: u32| {
            client.run(&Op::Write { tree: key % 2, key, seed: seed.into(), len }).unwrap();
        };
        // Some containers of which two thirds will die, and large stretches, several to a container.
        (0..200).for_each(|key| write(&mut client, key, key, 20_000));
        let mut stretches = 1000;
        while free(&client) > target + 12 {
            write(&mut client, stretches, stretches, 60_000);
            stretches += 1;
        }
        client.checkpoint().unwrap();
        (0..200).filter(|key| key % 3 != 0).for_each(|key| client.run(&Op::Delete { tree: key % 2, key }).unwrap());
        let mut key = 1000;
        while free(&client) >= target {
            write(&mut client, key, key + 1, 60_000);
            key += 1;
        }
        assert!(key + 50 < stretches, "all of it was overwritten");
        if somebody_waits {
            client.engine.writer().unwrap().admission.ledger.lock().wanted = Some(Reason::Reclaim);
        }
        client.checkpoint().unwrap();
        assert!(free(&client) > target, "what died was enough");
        let counts = &client.engine.metrics().cleaner;
        assert_eq!((counts.victims.get(), counts.moved.get()), (0, 0), "somebody waits: {somebody_waits}");
        client.verify();
        client.quiesce_and_check();
    }
}

/// Segments whose containers were cleaned, and so were given to others.
fn homeless(client: &Client) -> usize {
    client.engine.state.lock().table().values().filter(|row| row.home.is_none()).count()
}

fn many_homeless() -> Client {
    let (_, mut client) = fresh_with_segments(48, 512, 3, 256 << 10);
    for round in 0..6 {
        for key in 0..400 {
            if round == 0 || (key * 7 + round) % 3 == 0 {
                let seed = u64::from(1000 * round + key);
                client.run(&Op::Write { tree: 0, key, seed, len: 20_000 }).unwrap();
            }
            tick(&client.clock);
            if key % 100 == 99 {
                client.checkpoint().unwrap();
            }
        }
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
    }
    client
}

#[test]
fn segments_that_die_without_a_home_are_forgotten_although_their_pages_do_not_fit_into_memory() {
    let mut client = many_homeless();
    let before = homeless(&client);
    assert!(before > 20, "{before} segments without a home");
    let spills = client.engine.metrics().state.spills.get();
    for key in 0..400 {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    client.quiesce();
    assert!(client.engine.metrics().state.spills.get() > spills);
    assert!(homeless(&client) < before / 2);
    client.quiesce_and_check();
}

#[test]
fn lists_of_segments_without_a_home_leave_containers_that_are_to_be_emptied() {
    let mut client = many_homeless();
    let lists = |client: &Client| -> Vec<Place> {
        let state = client.engine.state.lock();
        state.orphans.pages().map(|(_, page)| page).chain(state.orphans.index().iter().copied()).collect()
    };
    // Written again, until nothing but they, and pages of segments with a home, lies where they do.
    let apart = (0..200).any(|round: u32| {
        for key in 0..40 {
            let key = 1000 + (round * 37 + key * 11) % 300;
            client.run(&Op::Write { tree: 1, key, seed: u64::from(round * 300 + key), len: 9000 }).unwrap();
            tick(&client.clock);
        }
        client.engine.state.lock().orphans.touch_containers(|_| true);
        client.checkpoint().unwrap();
        let state = client.engine.state.lock();
        let homeless: BTreeSet<u32> =
            state.table().values().filter(|row| row.home.is_none()).map(|row| row.page.container).collect();
        drop(state);
        lists(&client).iter().all(|place| !homeless.contains(&place.container))
    });
    let before = lists(&client);
    assert!(apart && before.len() >= 2, "{before:?}");
    let sparse: BTreeSet<u32> = before.iter().map(|place| place.container).collect();
    client.engine.leave_containers(&client.engine.writer().unwrap().space, &sparse).unwrap();
    let after = lists(&client);
    assert!(!after.is_empty() && after.iter().all(|place| !before.contains(place)), "{before:?}, {after:?}");
}
