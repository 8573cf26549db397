use super::client::*;
use crate::device::{Fault, SimulatedDevice};
use crate::space::Container;
use crate::store::Store;
use crate::{Engine, Options, ScrubOptions, Settings, StoreError};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::superblock::Superblock;
use std::ops::ControlFlow;
use std::sync::Arc;

fn filled() -> (SimulatedDevice, Client) {
    let (device, mut client) = fresh(16, 512, 3);
    for key in 0..100 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    client.checkpoint().unwrap();
    (device, client)
}

fn place_of(device: &SimulatedDevice, want: &[u8]) -> u64 {
    let image = device.image();
    let mut held = vec![0; want.len()];
    let found = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut held);
        held == want
    });
    found.unwrap()
}

#[test]
fn a_whole_store_verifies_also_after_cleaning_and_read_only() {
    let (device, mut client) = filled();
    for round in 0..2 {
        let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.findings, [], "round {round}");
        assert_eq!(report.position, report.containers);
        for key in (round..100).step_by(3) {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
            client.run(&Op::Punch { tree: 0, key: key + 1 }).unwrap();
        }
        client.checkpoint().unwrap();
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
    }
    client.commit().unwrap();
    let before = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert!(before.objects > 40 && before.findings.is_empty() && before.unnamed_units < 64, "{before:?}");
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<crate::hlc::ManualClock>::clone(&client.clock);
    let device = device.process_crash();
    let settings = Settings::default();
    let options = Options { read_only: true, threads: false, accept_loss: false, clock, settings };
    let engine = Engine::open(Arc::new(device), options).unwrap();
    let report = engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.objects, report.bytes, report.findings), (before.objects, before.bytes, Vec::new()));
}

/// A table's checksum of an object of which only the head fitted must be that of the head.
#[test]
fn values_that_end_where_a_container_ends_verify() {
    let (_, mut client) = fresh(16, 512, 5);
    let mut split = 0;
    for key in 0..60 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 45_000 }).unwrap();
        split += u64::from(client.logical()[&0][&key].pieces[0].1 < 45_000);
    }
    assert!(split > 3, "{split} values were cut off");
    client.checkpoint().unwrap();
    let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn damage_is_told_with_its_object_and_a_pass_goes_on_where_it_stopped() {
    let (device, client) = filled();
    let (oid, _) = client.extent_of(0, 7);
    let data = place_of(&device, &content(7, 4096, 512));
    device.inject(Fault::FlipBits { offset: data + 9, mask: 1 });
    let (other, _) = client.extent_of(0, 90);
    device.inject(Fault::ReadError { offset: place_of(&device, &content(90, 0, 512)) });
    let mut report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Break(())).unwrap();
    assert_eq!(report.position, 1);
    let mut findings = Vec::new();
    while report.position < report.containers {
        findings.append(&mut report.findings);
        let options = ScrubOptions { from: report.position, bytes_per_second: 1 << 30 };
        report = client.engine.scrub(options, |_| ControlFlow::Break(())).unwrap();
    }
    findings.append(&mut report.findings);
    let objects: Vec<_> = findings.iter().filter_map(|finding| finding.object).collect();
    assert_eq!(objects, [oid, other], "{findings:?}");
    assert_eq!(client.engine.metrics().scrub.damaged.get(), 2);
}

#[test]
fn a_damaged_header_footer_or_table_is_told() {
    let (device, mut client) = filled();
    client.run(&Op::Write { tree: 1, key: 0, seed: 1, len: 20_000 }).unwrap();
    client.checkpoint().unwrap();
    let writer = client.engine.writer().unwrap();
    let (oid, _) = client.extent_of(0, 0);
    let container = client.engine.reader.container_of(oid).unwrap();
    let row = writer.space.with_containers(|containers| *containers.get(container).unwrap());
    let shape = &client.engine.shape;
    for (unit, what) in [(0, "header"), (shape.units() - 1, "footer"), (row.last_part, "table")] {
        let flip = Fault::FlipBits { offset: shape.offset(container, unit) + 20, mask: 1 };
        device.inject(flip);
        let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.findings.len(), 1, "{what}: {:?}", report.findings);
        assert!(report.findings[0].what.contains(what) && report.findings[0].unit == unit, "{:?}", report.findings);
        device.inject(flip);
    }
}

/// The containers as they are, those with something in them.
fn rows(client: &Client) -> Vec<(u32, Container)> {
    let writer = client.engine.writer().unwrap();
    writer.space.with_containers(|containers| containers.iter().map(|(number, row)| (number, *row)).collect())
}

/// Exit status 7 on a healthy store: the footer of a container that was closed since the last checkpoint was still on its way.
#[test]
fn a_container_closed_since_the_checkpoint_whose_footer_is_on_its_way_is_no_finding() {
    let (device, mut client) = filled();
    let sealed = |client: &Client| rows(client).iter().filter(|(_, row)| row.state == ContainerState::Sealed).count();
    let before = sealed(&client);
    let _held = device.clone().slow(true);
    for key in 100..140 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    assert!(sealed(&client) > before && device.under_way() > 0, "{} writes under way", device.under_way());
    let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.findings, []);
}

/// The pass asks what a container is, and then looks at it: it may have been given back and filled anew between the two.
#[test]
fn a_container_used_again_since_it_was_asked_for_is_no_finding() {
    let (_, mut client) = filled();
    let before = rows(&client);
    for round in 1..4 {
        for key in 0..100 {
            let seed = u64::from(key) << 8 | round;
            client.run(&Op::Write { tree: 0, key, seed, len: 9_000 }).unwrap();
        }
        client.checkpoint().unwrap();
    }
    let mut stale = 0;
    let reused = |number: u32, row: &Container| row.segment != rows(&client)[number as usize].1.segment;
    for (number, row) in before.iter().filter(|(_, row)| row.state == ContainerState::Sealed) {
        let live = client.engine.state.lock().live_in(*number) > 0;
        stale += u32::from(live && reused(*number, row));
        assert_eq!(client.engine.scrub_as(*number, row).unwrap().findings, [], "container {number}");
    }
    assert!(stale > 0, "none of {} was used again", before.len());
}

#[test]
fn what_a_poisoned_store_did_not_write_is_not_told_as_damage() {
    let (device, mut client) = filled();
    device.inject(Fault::FailFlush);
    client.run(&Op::Write { tree: 0, key: 200, seed: 1, len: 20_000 }).unwrap();
    assert!(client.checkpoint().is_err() && client.engine.poisoned().is_some());
    let whole = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(()));
    assert!(whole.as_ref().is_ok_and(|report| report.objects > 0), "what verifies is no reason to stop: {whole:?}");
    let (oid, _) = client.extent_of(0, 7);
    device.inject(Fault::FlipBits { offset: place_of(&device, &content(7, 4096, 512)) + 9, mask: 1 });
    let scrubbed = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(()));
    assert!(matches!(scrubbed, Err(StoreError::Poisoned { .. })), "{oid}: {scrubbed:?}");
}

/// Of superblocks, directory and table there are several copies: a store goes on with one, until that is gone, too.
#[test]
fn damage_of_what_a_mount_starts_from_is_told() {
    let (device, mut client) = filled();
    for tree in 1..4 {
        client.run(&Op::Fork { from: 0, to: tree }).unwrap();
        client.run(&Op::Small { tree, key: 0, seed: 1, len: 100 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.run(&Op::Drop { tree: 0 }).unwrap();
    let building = client.build().unwrap();
    client.finish(building).unwrap();
    let superblock = crate::superblock::open(&device).unwrap().superblock;
    let (_, entry) = crate::superblock::damaged_copies(&device);
    let entry = entry.unwrap();
    let mut places: Vec<(u64, &str)> = Superblock::positions(superblock.size).map(|at| (at, "superblock")).to_vec();
    places.extend(superblock.slot_positions().map(|at| (at, "volume directory")));
    for list in [entry.drop_queue, entry.history].iter().filter(|place| !place.is_none()) {
        places.push((client.engine.shape.offset(list.container, list.units), "list page"));
    }
    assert!(places.len() > 6, "no list");
    for (at, what) in places {
        let flip = Fault::FlipBits { offset: at + 40, mask: 1 };
        device.inject(flip);
        let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
        device.inject(flip);
        assert_eq!(report.findings.len(), 1, "{what} at {at}: {:?}", report.findings);
        assert!(report.findings[0].what.contains(what), "{what} at {at}: {:?}", report.findings);
    }
    let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.findings, []);
}
