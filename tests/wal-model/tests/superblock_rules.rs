//! INV-23: the superblock's write, open and repair rule survives one bad copy and a power cut anywhere; the obvious ones do not.

use envoyfs_wal_model::quorum::{FAULTS, Fault, Loss, OPENS, ORDERS, Open, Order, REPAIRS, Repair, explore};

const PUBLISHES: u32 = 3;

#[test]
fn the_chosen_rule_never_loses_the_store() {
    for fault in FAULTS {
        let losses = explore(Order::Pairs, Open::ChainThenNewest, Repair::BadFirst, fault, PUBLISHES);
        assert!(losses.is_empty(), "{fault:?}: {losses:?}");
    }
}

#[test]
fn a_write_of_all_four_copies_in_one_group_loses_the_store_without_any_fault() {
    for open in OPENS {
        for repair in REPAIRS {
            let losses = explore(Order::Parallel, open, repair, Fault::None, PUBLISHES);
            assert!(losses.contains(&Loss::Unmountable), "{open:?} {repair:?}");
        }
    }
}

#[test]
fn two_must_agree_is_unmountable_after_one_bad_copy() {
    for order in ORDERS {
        for repair in REPAIRS {
            assert!(
                !explore(order, Open::TwoAgree, repair, Fault::Transient, PUBLISHES).is_empty(),
                "{order:?} {repair:?}"
            );
        }
    }
}

#[test]
fn repairing_good_copies_too_loses_the_store_with_one_bad_copy() {
    let losses = explore(Order::Pairs, Open::ChainThenNewest, Repair::AllCopies, Fault::Stuck, PUBLISHES);
    assert!(!losses.is_empty());
}

#[test]
fn an_unmountable_store_and_a_stale_root_are_told_apart() {
    let all_valid_but_apart = [Some(4), Some(4), Some(5), None];
    assert_eq!(Open::ChainThenNewest.choose(&all_valid_but_apart), Some(5));
    assert_eq!(Open::TwoAgree.choose(&all_valid_but_apart), Some(4));
    assert_eq!(Open::Chain.choose(&[Some(3), None, Some(7), None]), None);
    assert_eq!(Open::ChainThenNewest.choose(&[Some(3), None, Some(7), None]), Some(7));
    assert_eq!(Open::ChainThenNewest.choose(&[None; 4]), None);
}
