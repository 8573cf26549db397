//! Contradictions in the accounting. For tests and checks: every segment must be loaded.

use super::{Runs, State};
use std::collections::BTreeMap;

impl State {
    /// Contradictions in the accounting (INV-32), in words.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut containers = vec![0_u32; self.containers.len()];
        let mut physical: BTreeMap<u32, Runs> = BTreeMap::new();
        let (mut live, mut shared, mut deferred) = (0_u64, 0_u64, 0_u64);
        for (number, row) in &self.table {
            let Some(segment) = self.segment(*number) else {
                found.push(format!("segment {number}: its page was not read"));
                continue;
            };
            shared += segment.shared();
            deferred += u64::from(segment.deferred.units());
            for range in segment.deferred.iter().flat_map(|range| segment.live.outside(&range)) {
                found.push(format!("segment {number}: deferred units {range:?} are not live"));
            }
            if row.home.is_none() && !self.orphans_know(*number) {
                found.push(format!("segment {number}: no home, and in no list"));
            }
            if row.home.is_none() && segment.live.is_empty() {
                found.push(format!("segment {number}: no home, and nothing lives in it"));
            }
            for range in segment.live.iter() {
                live += u64::from(range.end - range.start);
                for (container, at, units) in self.locate(*number, &range) {
                    let Some(container) = container else {
                        found.push(format!("segment {number}: live units {range:?} have no place"));
                        continue;
                    };
                    if let Some(count) = containers.get_mut(container as usize) {
                        *count += units;
                    }
                    if physical.entry(container).or_default().insert(at..at + units) != units {
                        found.push(format!(
                            "segment {number}: live units {range:?} share container {container} at {at} with others"
                        ));
                    }
                }
            }
        }
        for (container, (count, want)) in self.containers.iter().zip(&containers).enumerate() {
            if count != want {
                found.push(format!("container {container}: {count} live units counted, {want} found"));
            }
        }
        let rows: u64 = self.history.iter().map(|retained| retained.units).sum();
        for (what, counted, seen) in [
            ("live units", self.live_units, live),
            ("shared objects", self.shared_objects, shared),
            ("deferred units", self.deferred_units, deferred),
            ("deferred units of retained checkpoints", rows, deferred),
        ] {
            if counted != seen {
                found.push(format!("{counted} {what} counted, {seen} found"));
            }
        }
        found
    }

    fn orphans_know(&self, number: u32) -> bool {
        self.orphans.pages().next().is_some_and(|(first, _)| first <= number)
    }
}
