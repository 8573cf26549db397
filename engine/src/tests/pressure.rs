//! A log that is more than half full, with threads: who is delayed, and what ends it. How long, `engine::pressure` shows in virtual time.

use super::client::{clock, small_format};
use crate::device::SimulatedDevice;
use crate::hlc::ManualClock;
use crate::store::*;
use crate::{Engine, Options, Settings};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

fn need(tier: Tier) -> Need {
    Need { log_bytes: 2000, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier }
}

fn append(engine: &Engine, permit: &mut Permit) {
    let draft = Draft { kind: 300, territory: 1, origin: None, data: &[], body: &[7; 2000] };
    engine.append(permit, draft).unwrap();
}

#[test]
fn writers_are_delayed_until_a_publication_and_the_last_tier_is_not() {
    let device = SimulatedDevice::new(16 << 20, 512, 1);
    small_format(&device);
    let clock = clock();
    let options = Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::<ManualClock>::clone(&clock),
        settings: Settings::default(),
    };
    let engine = Engine::open(Arc::new(device), options).unwrap();
    let writer = engine.writer().unwrap();
    while !writer.wal.room().is_under_pressure() {
        append(&engine, &mut engine.reserve(need(Tier::Last)).unwrap());
        engine.commit(engine.end()).unwrap();
    }
    let slowed = || engine.metrics().admission.slowed.count();
    assert_eq!(slowed(), 0);
    {
        // As if checkpoints took for ever.
        let mut ledger = writer.admission.ledger.lock();
        ledger.pressure.frozen(0);
        ledger.pressure.published(u64::MAX / 4);
    }
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let engine = &engine;
        scope.spawn(move || {
            append(engine, &mut engine.reserve(need(Tier::Writer)).unwrap());
            tell.send(()).unwrap();
        });
        let is_slowed = || writer.admission.ledger.lock().pressure.is_slot_taken();
        while !is_slowed() {
            assert!(told.recv_timeout(Duration::from_millis(1)).is_err(), "he was not delayed");
        }
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "he was not delayed");
        append(engine, &mut engine.reserve(need(Tier::Last)).unwrap());
        let frozen = engine.freeze().unwrap();
        engine.publish(frozen, Roots::default(), Changes::default()).unwrap();
        told.recv_timeout(Duration::from_secs(20)).expect("a publication ends the delay");
    });
    assert_eq!((slowed(), engine.metrics().admission.wait_log.count()), (1, 0));
    // There is room now.
    append(&engine, &mut engine.reserve(need(Tier::Writer)).unwrap());
    assert_eq!(slowed(), 1);
}
