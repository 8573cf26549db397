//! The superblock's write, open and repair rules alone (DESIGN 5, INV-23): four copies, one latent bad copy and a power cut
//! (torn, lost or landed, any subset of the un-flushed writes) at any point of a publish or of a repair, repeated.
//!
//! A copy is a sequence number, or none when it is invalid. The *floor* is the newest sequence whose older state may
//! already be overwritten: opening below it mounts a stale root. Rules that lose a store stay here beside the chosen one
//! ([`Order::Pairs`], [`Open::ChainThenNewest`], [`Repair::BadFirst`]) so that the test shows why it was chosen.

use std::collections::{BTreeSet, HashSet};

pub const COPIES: usize = 4;

/// The sequence numbers that the four copies show.
pub type Copies = [Option<u32>; COPIES];

/// Which copies a publish writes between two flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All four, then one flush.
    Parallel,
    /// Two, flush, the other two, flush.
    Pairs,
    ThreeThenOne,
    Singles,
}

/// Which sequence an open chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The highest that two copies hold.
    TwoAgree,
    /// The highest valid.
    Newest,
    /// The highest that two copies hold, or one whose predecessor another copy attests; else a lone valid copy.
    Chain,
    /// As `Chain`, else the newest valid copy (whose WAL head must verify): the rule of DESIGN 5.
    ChainThenNewest,
}

/// What an open rewrites before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Every copy, in the order of a publish.
    AllCopies,
    /// Invalid copies (they cannot get worse), then stale ones, never a good one.
    BadFirst,
}

/// What one device fault does beside the power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// One copy turns bad once, at any moment; rewriting heals it.
    Transient,
    /// One copy turns bad and stays bad.
    Stuck,
    /// Every write to one copy is silently lost: it goes on showing the first sequence.
    LostWrites,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    Unmountable,
    StaleRoot,
}

pub const ORDERS: [Order; 4] = [Order::Parallel, Order::Pairs, Order::ThreeThenOne, Order::Singles];
pub const OPENS: [Open; 4] = [Open::TwoAgree, Open::Newest, Open::Chain, Open::ChainThenNewest];
pub const REPAIRS: [Repair; 2] = [Repair::AllCopies, Repair::BadFirst];
pub const FAULTS: [Fault; 4] = [Fault::None, Fault::Transient, Fault::Stuck, Fault::LostWrites];

impl Order {
    fn groups(self) -> &'static [&'static [usize]] {
        match self {
            Order::Parallel => &[&[0, 1, 2, 3]],
            Order::Pairs => &[&[0, 1], &[2, 3]],
            Order::ThreeThenOne => &[&[0, 1, 2], &[3]],
            Order::Singles => &[&[0], &[1], &[2], &[3]],
        }
    }
}

impl Open {
    /// The sequence that is mounted, or none: unmountable.
    pub fn choose(self, copies: &Copies) -> Option<u32> {
        let valid = || copies.iter().flatten().copied();
        let held = |s: u32| valid().filter(|v| *v == s).count();
        let attested = |s: &u32| held(*s) >= 2 || held(*s - 1) >= 1;
        match self {
            Open::TwoAgree => valid().filter(|s| held(*s) >= 2).max(),
            Open::Newest => valid().max(),
            Open::Chain => {
                let lone = if valid().count() == 1 { valid().next() } else { None };
                valid().filter(attested).max().or(lone)
            }
            Open::ChainThenNewest => valid().filter(attested).max().or(valid().max()),
        }
    }
}

/// Every state that power loss may leave while `sequence` is written in `groups`; the last one is the finished write.
/// `bad` is a copy that never shows anything.
fn power_cuts(copies: &Copies, groups: &[Vec<usize>], sequence: u32, bad: Option<usize>) -> Vec<(Copies, bool)> {
    let masked = |mut c: Copies| {
        if let Some(b) = bad {
            c[b] = None;
        }
        c
    };
    let mut current = *copies;
    let mut out = vec![];
    for group in groups {
        for outcome in 0..3_usize.pow(group.len() as u32) {
            let mut state = current;
            let mut rest = outcome;
            for &copy in group {
                match rest % 3 {
                    0 => {}
                    1 => state[copy] = Some(sequence),
                    _ => state[copy] = None,
                }
                rest /= 3;
            }
            out.push((masked(state), false));
        }
        for &copy in group {
            current[copy] = Some(sequence);
        }
    }
    out.push((masked(current), true));
    out
}

fn repair_groups(repair: Repair, order: Order, copies: &Copies, chosen: u32, bad: Option<usize>) -> Vec<Vec<usize>> {
    let publish: Vec<Vec<usize>> = order.groups().iter().map(|g| g.to_vec()).collect();
    if repair == Repair::AllCopies {
        return publish;
    }
    let invalid: Vec<usize> = (0..COPIES).filter(|i| copies[*i].is_none() && Some(*i) != bad).collect();
    let stale = |i: &usize| copies[*i].is_some_and(|s| s != chosen);
    let mut groups = vec![invalid];
    groups.extend(publish.into_iter().map(|g| g.into_iter().filter(stale).collect()));
    groups.retain(|g| !g.is_empty());
    groups
}

/// Everything the rules can lose, over every fault position, every power cut and `publishes` publishes in a row.
pub fn explore(order: Order, open: Open, repair: Repair, fault: Fault, publishes: u32) -> BTreeSet<Loss> {
    let faulty: Vec<Option<usize>> = match fault {
        Fault::None => vec![None],
        Fault::Transient | Fault::Stuck => [None].into_iter().chain((0..COPIES).map(Some)).collect(),
        Fault::LostWrites => (0..COPIES).map(Some).collect(),
    };
    faulty.into_iter().flat_map(|bad| explore_one(order, open, repair, fault, bad, 1 + publishes)).collect()
}

fn explore_one(
    order: Order,
    open: Open,
    repair: Repair,
    fault: Fault,
    bad: Option<usize>,
    last: u32,
) -> BTreeSet<Loss> {
    let publish: Vec<Vec<usize>> = order.groups().iter().map(|g| g.to_vec()).collect();
    let mut losses = BTreeSet::new();
    let mut seen = HashSet::new();
    let strikes = bad.is_some() && fault != Fault::LostWrites;
    let mut stack = vec![([Some(1); COPIES], 1, strikes)];
    while let Some((copies, floor, pending)) = stack.pop() {
        if !seen.insert((copies, floor, pending)) {
            continue;
        }
        if let (true, Some(b)) = (pending, bad) {
            let mut struck = copies;
            struck[b] = None;
            stack.push((struck, floor, false));
        }
        let dark = bad.filter(|_| fault == Fault::Stuck && !pending);
        // A device that loses the writes of one copy goes on showing the old bytes there.
        let shown = |mut c: Copies| {
            if let (Fault::LostWrites, Some(b)) = (fault, bad) {
                c[b] = copies[b];
            }
            c
        };
        let Some(chosen) = open.choose(&copies) else {
            losses.insert(Loss::Unmountable);
            continue;
        };
        if chosen < floor {
            losses.insert(Loss::StaleRoot);
            continue;
        }
        for (repaired, done) in power_cuts(&copies, &repair_groups(repair, order, &copies, chosen, dark), chosen, dark)
        {
            let repaired = shown(repaired);
            if !done {
                stack.push((repaired, floor, pending));
            } else if chosen < last {
                let floor_now = if fault == Fault::LostWrites { floor } else { chosen };
                for (next, done) in power_cuts(&repaired, &publish, chosen + 1, dark) {
                    stack.push((shown(next), if done { chosen + 1 } else { floor_now }, pending));
                }
            }
        }
    }
    losses
}

/// One line for every combination of rules and faults.
pub fn table() -> Vec<String> {
    let mut rows = vec![];
    for fault in FAULTS {
        for order in ORDERS {
            for open in OPENS {
                for repair in REPAIRS {
                    let publishes = if fault == Fault::LostWrites { 4 } else { 2 };
                    let losses = explore(order, open, repair, fault, publishes);
                    let verdict = if losses.is_empty() { "ok".to_string() } else { format!("{losses:?}") };
                    rows.push(format!("{fault:?} {order:?} {open:?} {repair:?}: {verdict}"));
                }
            }
        }
    }
    rows
}
