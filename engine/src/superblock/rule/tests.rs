//! The whole input space of the rule, and every power cut of publish and repair with one bad copy (as `sb_quorum.py` of the design does).

use super::*;
use envoyfs_layout::Hlc;
use envoyfs_layout::superblock::{Barrier, LABEL_BYTES};
use std::collections::{BTreeSet, HashSet};

/// Superblocks 0..=7 of one history.
fn history() -> Vec<Superblock> {
    let first = Superblock {
        sequence: 0,
        predecessor: 0,
        identity: [1; 16],
        seed: [2; 16],
        cluster: [0; 16],
        host: 0,
        store: [3; 16],
        compatible: 0,
        read_only_compatible: 0,
        incompatible: 0,
        size: 256 << 20,
        logical_block: 4096,
        segment_bytes: 1 << 20,
        ring_offset: 65536,
        ring_bytes: 8 << 20,
        area_a: 9 << 20,
        area_b: 200 << 20,
        area_slot_bytes: 64 << 10,
        segments_offset: 10 << 20,
        containers: 190,
        directory_crc: 0,
        directory_bytes: 4096,
        system_slot: 0,
        barrier: Barrier::Flush,
        device_cache: 0,
        errors: false,
        hlc_bound: Hlc(0),
        format_ns: 0,
        label: [0; LABEL_BYTES],
    };
    std::iter::successors(Some(first), |s| Some(s.next())).take(8).collect()
}

type Numbers = [Option<usize>; 4];

fn copies(history: &[Superblock], numbers: &Numbers) -> Copies {
    numbers.map(|number| number.map(|number| history[number].clone()))
}

/// The rule in numbers, written independently.
fn expected(numbers: &Numbers) -> Option<usize> {
    let valid: Vec<usize> = numbers.iter().flatten().copied().collect();
    let good: BTreeSet<usize> = valid
        .iter()
        .copied()
        .filter(|n| valid.iter().filter(|m| *m == n).count() >= 2 || (*n > 0 && valid.contains(&(n - 1))))
        .collect();
    good.last().copied().or(valid.iter().copied().max())
}

fn all_inputs() -> impl Iterator<Item = Numbers> {
    // Newest, its predecessor, two older ones that do not follow each other, and a bad copy.
    const VALUES: [Option<usize>; 5] = [Some(7), Some(6), Some(4), Some(2), None];
    (0..625).map(|n| [VALUES[n % 5], VALUES[n / 5 % 5], VALUES[n / 25 % 5], VALUES[n / 125]])
}

#[test]
fn every_combination_of_copies_opens_as_the_rule_says() {
    let history = history();
    for numbers in all_inputs() {
        let copies = copies(&history, &numbers);
        let chosen = choose(&copies).map(|s| usize::try_from(s.sequence).unwrap());
        assert_eq!(chosen, expected(&numbers), "{numbers:?}");
    }
}

#[test]
fn one_copy_more_than_a_generation_ahead_does_not_win_over_two_that_agree() {
    let history = history();
    let copies = copies(&history, &[Some(7), Some(4), Some(4), None]);
    assert_eq!(choose(&copies).unwrap().sequence, 4);
}

#[test]
fn a_copy_of_another_history_attests_nothing() {
    let history = history();
    let mut other = history[6].clone();
    other.set_label("other");
    let copies = [Some(history[7].clone()), Some(other), Some(history[4].clone()), Some(history[4].clone())];
    assert_eq!(choose(&copies).unwrap().sequence, 4);
}

#[test]
fn repairs_touch_bad_copies_first_then_stale_ones_and_never_a_good_one() {
    let history = history();
    for numbers in all_inputs() {
        let copies = copies(&history, &numbers);
        let Some(rules) = choose(&copies).cloned() else { continue };
        let groups = repairs(&copies, &rules);
        let touched: Vec<usize> = groups.iter().flatten().copied().collect();
        let wrong: BTreeSet<usize> = (0..4).filter(|i| copies[*i].as_ref() != Some(&rules)).collect();
        assert_eq!(touched.iter().copied().collect::<BTreeSet<_>>(), wrong, "{numbers:?}");
        assert_eq!(touched.len(), wrong.len());
        let kinds: Vec<(bool, usize)> = touched.iter().map(|i| (copies[*i].is_some(), i / 2)).collect();
        let rank = |(valid, pair): &(bool, usize)| if *valid { 1 + pair } else { 0 };
        let ordered = kinds.is_sorted_by_key(rank);
        assert!(ordered, "{numbers:?}: {groups:?}");
        assert!(
            groups
                .iter()
                .all(|group| group.iter().all(|i| copies[*i].is_none()) || group.iter().all(|i| copies[*i].is_some()))
        );
    }
}

/// States that a power cut may leave while `number` is written in groups; the flag says that all is done.
fn cuts(from: Numbers, groups: &[Vec<usize>], number: usize, bad: Option<usize>) -> Vec<(Numbers, bool)> {
    let mask = |mut copies: Numbers| {
        if let Some(bad) = bad {
            copies[bad] = None;
        }
        copies
    };
    let mut out = Vec::new();
    let mut current = from;
    for group in groups {
        for outcome in 0..3_usize.pow(u32::try_from(group.len()).unwrap()) {
            let mut copies = current;
            for (k, index) in group.iter().enumerate() {
                match outcome / 3_usize.pow(u32::try_from(k).unwrap()) % 3 {
                    0 => {}
                    1 => copies[*index] = Some(number),
                    _ => copies[*index] = None,
                }
            }
            out.push((mask(copies), false));
        }
        group.iter().for_each(|index| current[*index] = Some(number));
    }
    out.push((mask(current), true));
    out
}

/// Explores open, repair and publish with power cuts anywhere, any number of times, and one copy that goes bad once, or stays bad.
#[test]
fn no_power_cut_with_one_bad_copy_loses_the_store_or_goes_back() {
    let history = history();
    let newest = 4;
    for (bad, stuck) in [
        (None, false),
        (Some(0), false),
        (Some(1), false),
        (Some(2), false),
        (Some(3), false),
        (Some(0), true),
        (Some(1), true),
        (Some(2), true),
        (Some(3), true),
    ] {
        let mut seen = HashSet::new();
        let mut open = vec![([Some(1); 4], 1, bad.is_some())];
        while let Some((numbers, floor, pending)) = open.pop() {
            if !seen.insert((numbers, floor, pending)) {
                continue;
            }
            if let (true, Some(bad)) = (pending, bad) {
                let mut copies = numbers;
                copies[bad] = None;
                open.push((copies, floor, false));
            }
            let held = if stuck && !pending { bad } else { None };
            let copies = copies(&history, &numbers);
            let rules = choose(&copies).expect("mountable").clone();
            let number = usize::try_from(rules.sequence).unwrap();
            assert!(number >= floor, "a superseded superblock was opened: {numbers:?}, floor {floor}");
            let groups: Vec<Vec<usize>> = repairs(&copies, &rules)
                .into_iter()
                .map(|group| group.into_iter().filter(|index| Some(*index) != held).collect())
                .collect();
            for (repaired, done) in cuts(numbers, &groups, number, held) {
                if !done {
                    open.push((repaired, floor, pending));
                } else if number < newest {
                    for (published, done) in cuts(repaired, &[vec![0, 1], vec![2, 3]], number + 1, held) {
                        open.push((published, if done { number + 1 } else { number }, pending));
                    }
                }
            }
        }
        assert!(seen.len() > 20);
    }
}
