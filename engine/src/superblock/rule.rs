//! The open and repair rule (INV-23, DESIGN 5): pure functions of what the four copies show.
//!
//! ```text
//! open    highest sequence held by two copies, or by one whose predecessor another copy attests; else the newest valid
//! repair  invalid copies together, flush; stale ones of {0, 1}, flush; stale ones of {2, 3}, flush; a good copy is never written
//! ```
//! Why: at every moment two copies that a power cut cannot touch tell the truth. "Newest that parses", "two must agree" and "write all four" each lose the store
//! with one bad copy and one power cut; the tests enumerate it.

use crate::sabotage::{self, Rule};
use envoyfs_layout::superblock::{COPIES, Superblock};

/// What the four positions hold; `None` = unreadable or not valid there.
pub type Copies = [Option<Superblock>; COPIES];

/// The superblock that rules, if any copy is valid.
#[must_use]
pub fn choose(copies: &Copies) -> Option<&Superblock> {
    let valid = || copies.iter().flatten();
    let twice = |s: &Superblock| valid().filter(|other| *other == s).count() >= 2;
    let attested = |s: &Superblock| valid().any(|other| follows(s, other));
    valid()
        .filter(|s| twice(s) || attested(s) || sabotage::on(Rule::NewestOpens))
        .max_by_key(|s| s.sequence)
        .or_else(|| valid().max_by_key(|s| s.sequence))
}

fn follows(later: &Superblock, earlier: &Superblock) -> bool {
    later.sequence == earlier.sequence.wrapping_add(1) && later.predecessor == earlier.hash()
}

/// Groups of copies to overwrite with the ruling superblock, in this order, each followed by a flush.
#[must_use]
pub fn repairs(copies: &Copies, rules: &Superblock) -> Vec<Vec<usize>> {
    let members = |holds: &dyn Fn(usize, &Option<Superblock>) -> bool| -> Vec<usize> {
        copies.iter().enumerate().filter(|(index, copy)| holds(*index, copy)).map(|(index, _)| index).collect()
    };
    let stale = |copy: &Option<Superblock>| copy.as_ref().is_some_and(|copy| copy != rules);
    let groups = [
        members(&|_, copy| copy.is_none()),
        members(&|index, copy| index < 2 && stale(copy)),
        members(&|index, copy| index >= 2 && stale(copy)),
    ];
    groups.into_iter().filter(|group| !group.is_empty()).collect()
}

#[cfg(test)]
mod tests;
