//! The histories that drive real implementations: they hold what the profile allows, replay from a seed, and are covered.

use envoyfs_model::history::token_bytes;
use envoyfs_model::{History, Operation, OracleEntry, Place, Profile};
use std::collections::BTreeSet;

const SEEDS: u64 = 15;
const OPERATIONS: usize = 500;

fn kind(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_string()
}

#[test]
fn a_seed_gives_the_same_operations() {
    let draw = || {
        let mut h = History::new(3, Profile::first_implementation());
        (0..200).map(|_| format!("{:?}", h.next().0)).collect::<Vec<_>>()
    };
    assert_eq!(draw(), draw());
}

#[test]
fn the_first_implementation_is_spared_what_it_refuses() {
    let mut kinds = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut h = History::new(seed, Profile::first_implementation());
        for _ in 0..OPERATIONS {
            let before = h.volume().clone();
            let (operation, after) = h.next();
            kinds.insert(kind(&operation));
            match &operation {
                Operation::Clone { source, read_only, .. } => {
                    assert!(!read_only, "seed {seed}");
                    let realms = before.directory(source).values().any(|e| matches!(e, OracleEntry::Realm(_)));
                    assert!(!realms, "seed {seed}: {operation:?}");
                }
                Operation::Rename { from, directory, .. } => {
                    let parent = &from[..from.len() - 1];
                    assert_eq!(before.realm_around(parent).0, before.realm_around(directory).0, "seed {seed}");
                }
                Operation::Create { directory, name } => {
                    assert!(matches!(Place::of(directory), Place::Tree(_)));
                    assert!(after.directory(directory).contains_key(name));
                }
                _ => {}
            }
        }
        h.check_model();
    }
    let refused = ["Adopt", "EmbedLink", "TemporaryFile", "LinkOrphan", "Reflink", "CloneHistory"];
    assert!(refused.iter().all(|k| !kinds.contains(*k)), "{kinds:?}");
    let wanted = [
        "Create",
        "MakeDirectory",
        "Write",
        "Punch",
        "Unlink",
        "UnlinkOpen",
        "CloseOrphan",
        "RemoveDirectory",
        "RemoveTree",
        "Rename",
        "Clone",
        "TakeSnapshot",
        "DropSnapshot",
        "CloneFile",
        "Link",
    ];
    let missing: Vec<_> = wanted.iter().filter(|k| !kinds.contains(**k)).collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

#[test]
fn every_operation_is_drawn_when_nothing_is_excluded() {
    let mut kinds = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut h = History::new(seed, Profile::everything());
        for _ in 0..OPERATIONS {
            kinds.insert(kind(&h.next().0));
        }
        h.check_model();
    }
    let missing: Vec<_> =
        ["EmbedLink", "TemporaryFile", "LinkOrphan", "Reflink"].iter().filter(|k| !kinds.contains(**k)).collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

#[test]
fn tokens_stand_for_different_bytes() {
    assert_eq!(token_bytes(5, 4096).len(), 4096);
    assert_eq!(token_bytes(5, 3).len(), 3);
    assert_ne!(token_bytes(5, 4096), token_bytes(6, 4096));
}
