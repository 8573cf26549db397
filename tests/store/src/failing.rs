//! Histories in which writes of data fail when the records that name them stand in the log already, so that where the data is now is said behind them in the log; and what was appended
//! meanwhile has no data yet, so that the log is cut before it.
//!
//! ```text
//! held:   [data a] [data b] ...          appended: a b ..
//! commit up to a:        blocks with a and b | the write of a fails, is made elsewhere | [a container for it: PLACED] RELOCATED | flush
//! power fails:           a is kept; the log is cut at b, which stands before PLACED and RELOCATED
//! ```

use crate::bench::{Bench, Region};
use crate::client::{Client, Op, Rng, clock};
use crate::device::{Device, RecordingDevice, SimulatedDevice};
use crate::history::{Recorded, Shape, aged, mount, step};
use crate::hlc::Clock as _;
use crate::scripted::{Call, ScriptedDevice};
use crate::store::{Need, Store as _, Tier};
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EIO: i32 = 5;
/// Of the stores here.
const SEGMENT_BYTES: u32 = 256 << 10;

/// Random shapes for such a history.
#[must_use]
pub fn shape(seed: u64, rounds: u64) -> Shape {
    Shape { slow: false, ..Shape::of(seed, rounds) }
}

/// Objects that nobody will name. In most rounds until what is left of the container takes one object of so many units, and not two: then the second place is in another container.
fn fill(client: &Client, rng: &mut Rng, shape: &Shape, units: u32) {
    let aims = rng.below(4) > 0;
    let all = rng.below(30);
    for number in 0..60 {
        let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 8192, tier: Tier::Writer };
        let Ok(mut permit) = client.engine.reserve(need) else { return };
        let object = client.engine.append_data(&mut permit, None, &[3; 8192]).expect("no faults yet");
        client.engine.abandon_data(&object);
        let used = u32::from(object.oid.slot()) + object.stored_bytes / 512;
        // Table parts and the footer take some.
        let left = (SEGMENT_BYTES / 512).saturating_sub(used + 8 * shape.block / 512);
        if aims && (units + 8..2 * units).contains(&left) || !aims && number >= all {
            return;
        }
    }
}

/// Writes that wait for nothing.
fn writes(client: &mut Client, rng: &mut Rng, count: u64, len: std::ops::Range<u32>) {
    for _ in 0..count {
        let (tree, key) = (rng.below(3) as u32, rng.below(12) as u32);
        let len = len.start + rng.below(u64::from(len.end - len.start)) as u32;
        let op = Op::Write { tree, key, seed: rng.next(), len };
        // What would have to wait for a checkpoint is left out.
        let _ = client.try_run(&op);
    }
}

/// Runs a history of so many rounds; it ends early when the store is poisoned, by a write that was not data.
#[must_use]
pub fn record(seed: u64, shape: Shape) -> Recorded {
    let clock = clock();
    let base = aged(seed, &shape, &clock);
    let recorded = RecordingDevice::new(SimulatedDevice::from_image(base.clone(), shape.block, seed));
    let recording = recorded.recording();
    let device = ScriptedDevice::new(Arc::new(recorded));
    let given: Arc<dyn Device> = Arc::<ScriptedDevice>::clone(&device);
    let mut client = Client::start(mount(given, &clock).expect("no faults"), clock.clone());
    let mut marks = vec![(0, client.history[0].0)];
    let mut rng = Rng(seed ^ 0x0F_A115);
    for _ in 0..shape.steps {
        for _ in 0..rng.below(4) {
            step(&mut client, &mut rng, &shape).expect("no faults yet");
        }
        client.checkpoint().expect("no faults yet");
        let units = 40 + rng.below(60) as u32;
        fill(&client, &mut rng, &shape, units);
        client.commit().expect("no faults yet");
        marks.push((recording.len(), client.acknowledged));

        let region = Bench::on(base.clone(), false).regions();
        device.hold_writes(move |offset| region(offset) == Region::Segments);
        writes(&mut client, &mut rng, 1, units * 512 - 500..units * 512);
        let (end, held) = (client.engine.end(), device.held_writes());
        let count = 1 + rng.below(2);
        writes(&mut client, &mut rng, count, 512..3000);
        let failing = rng.below(held as u64) as usize;
        if commit_beside(&client, &device, end, held, failing, &base).is_err() {
            device.release();
            break;
        }
        marks.push((recording.len(), end));
        // Now and then nobody waits for the rest when it fails, too.
        if rng.below(3) == 0 {
            device.release_first(1, EIO, |_, _| true);
        }
        device.release();
        if client.engine.poisoned().is_some() {
            break;
        }
        for _ in 0..rng.below(3) {
            let acknowledged = client.acknowledged;
            if step(&mut client, &mut rng, &shape).is_err() {
                break;
            }
            if client.acknowledged > acknowledged {
                marks.push((recording.len(), client.acknowledged));
            }
        }
        if client.engine.poisoned().is_some() || client.commit().is_err() {
            break;
        }
        marks.push((recording.len(), client.acknowledged));
    }
    let history = std::mem::take(&mut client.history);
    let now_ns = clock.wall_ns();
    let (lists, retained) = (BTreeMap::new(), BTreeMap::new());
    Recorded { base, recording, history, marks, shape, now_ns, lists, retained, serves: 2 }
}

/// Commits up to `end`. The first `held` of the writes that are held come back once the log has been written: one of them failed.
fn commit_beside(
    client: &Client,
    device: &Arc<ScriptedDevice>,
    end: envoyfs_layout::Lsn,
    held: usize,
    failing: usize,
    base: &crate::device::DeviceImage,
) -> crate::store::Result<()> {
    let (framed, written) = channel();
    let (framed, region) = (Mutex::new(framed), Bench::on(base.clone(), false).regions());
    device.look(move |call| {
        if matches!(call, Call::Write(offset, _) if region(offset) == Region::Ring) {
            let _ = framed.lock().unwrap().send(());
        }
    });
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| client.engine.commit(end));
        while written.recv_timeout(Duration::from_millis(5)).is_err() && !commit.is_finished() {}
        device.look_away();
        device.release_first(held, EIO, |number, _| number == failing);
        commit.join().unwrap()
    })
}
