//! Stamps of records.

use crate::bench::{Bench, recover};
use crate::hlc::Clock as _;
use crate::mini::Mini;
use crate::store::{Draft, Need, Store as _, Tier};
use envoyfs_layout::Hlc;
use std::time::Duration;

/// The stamp of a record that is appended now.
fn stamp(mini: &Mini) -> Hlc {
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
    let mut permit = mini.engine.reserve(need).unwrap();
    let draft = Draft { kind: crate::mini::NOTE, territory: 1, origin: None, data: &[], body: &[1; 8] };
    mini.engine.append(&mut permit, draft).unwrap().hlc
}

/// INV-40: whatever the clock does.
pub fn stamps_rise_along_a_log() {
    let bench = Bench::new();
    let mini = bench.mount();
    let mut last = Hlc::ZERO;
    for now in [0, 0, 5, 3, 3, 7] {
        mini.clock.set_wall_ns(1_700_000_000_000_000_000 + now * 1_000_000_000);
        let next = stamp(&mini);
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
}

/// INV-01: the clock was put back while the power was off.
pub fn a_stamp_that_a_crash_lost_is_not_drawn_again() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    mini.clock.advance(Duration::from_secs(300));
    let lost = stamp(&mini);
    let after = recover(&bench.cut());
    assert!(after.clock.wall_ns() < mini.clock.wall_ns());
    let next = stamp(&after);
    assert!(next > lost, "{next:?} after {lost:?}");
}
