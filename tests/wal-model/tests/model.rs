//! The WAL model with a small budget; `cargo xtask models --long` has the large one. A failure prints the configuration,
//! the seed and the whole trace of steps.

use envoyfs_wal_model::config::{BUGS, Bug, Config, EXHAUSTIVE, RANDOM, SIMPLER};
use envoyfs_wal_model::explore::{Outcome, exhaustive, hunt, random};
use std::time::Duration;

/// Bounds a search by states, never by a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);

fn clean(c: &Config, o: &Outcome) {
    if let Some((why, trace)) = &o.violation {
        panic!("{}: {why}\n{trace}", c.name);
    }
}

#[test]
fn small_configurations_have_no_violation_depth_first() {
    for c in EXHAUSTIVE {
        clean(c, &exhaustive(c, 60_000, PATIENCE));
    }
}

#[test]
fn process_crashes_are_explored_to_the_end() {
    let c = EXHAUSTIVE.iter().find(|c| c.process_crashes > 0).expect("a configuration with process crashes");
    let o = exhaustive(c, 200_000, PATIENCE);
    clean(c, &o);
    assert!(o.complete);
    assert_eq!(o.states, 59_151, "the state space of {:?} changed: was the model meant to?", c.name);
}

#[test]
fn large_configurations_have_no_violation_at_random() {
    for c in RANDOM {
        let o = random(c, 1, 600, PATIENCE);
        clean(c, &o);
        assert!(o.counters.crash_images > 0);
        assert_eq!(o.counters.faults > 0, c.faults > 0, "{}", c.name);
    }
}

/// Seen only with a fault: hunted where there is one, or a search of the configurations without would come first.
const NEED_A_FAULT: &[Bug] = &[Bug::WatermarkOnlyBeforeBad, Bug::OnlyLastCutPublished];

#[test]
fn rules_left_out_are_caught() {
    for bug in BUGS.iter().filter(|b| !NEED_A_FAULT.contains(b)) {
        let h = hunt(*bug, PATIENCE);
        let caught = h.caught.unwrap_or_else(|| panic!("{bug:?} not caught in {} states", h.states));
        println!("{bug:?}: {} [{}]", caught.sign, caught.configuration);
    }
}

#[test]
fn rules_that_matter_only_with_a_fault_are_caught() {
    for bug in NEED_A_FAULT {
        let signs = RANDOM.iter().filter(|c| c.faults > 0).find_map(|c| {
            let c = Config { bug: Some(*bug), ..*c };
            random(&c, 1, 2500, PATIENCE).violation
        });
        println!("{bug:?}: {}", signs.unwrap_or_else(|| panic!("{bug:?} not caught")).0);
    }
}

#[test]
fn the_list_of_bugs_holds_every_seeded_bug_once() {
    let mut names: Vec<String> = BUGS.iter().chain(SIMPLER).map(|b| format!("{b:?}")).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}
