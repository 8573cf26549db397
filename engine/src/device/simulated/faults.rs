//! What can be made to go wrong: single faults at a place, and rules that choose among operations by number, by place or by chance.

use super::super::random::Random;
use std::ops::Range;

/// A fault to inject. Offsets are bytes on the device; they mean the 512-byte sector there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reads of the sector fail with EIO until it is written again.
    ReadError {
        /// The sector.
        offset: u64,
    },
    /// Reads of the sector succeed again, and show what was written to it last.
    Readable {
        /// The sector.
        offset: u64,
    },
    /// The next write that touches the sector fails with EIO; what it changed is left to chance.
    WriteError {
        /// The sector.
        offset: u64,
    },
    /// Bits flip in what is stored now.
    FlipBits {
        /// The byte.
        offset: u64,
        /// The bits.
        mask: u8,
    },
    /// The next write that touches the sector is acknowledged but leaves the sector as it is.
    LoseWrite {
        /// The sector.
        offset: u64,
    },
    /// From now on reads of the sector return what it holds now, whatever is written. Power loss ends it.
    Stale {
        /// The sector.
        offset: u64,
    },
    /// The next write that starts at the sector lands at another one.
    Misdirect {
        /// Where the write is meant to go.
        offset: u64,
        /// Where it goes.
        to: u64,
    },
    /// The next flush fails with EIO.
    FailFlush,
}

/// An operation that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Reads.
    Read,
    /// Writes, when they reach the device's cache.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
}

/// Which of the operations that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The one with this number, from 0; then never again.
    Nth(u64),
    /// From the one with this number on, every one.
    From(u64),
    /// Each with this chance, in parts of 65536, drawn from the device's seed.
    Chance(u32),
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with this error number. Of a write, any sectors may have changed; what a failed flush covered is never durable.
    Fail(i32),
    /// It is acknowledged and not done: a write leaves what was there, a flush makes nothing durable. A read, of what the caller's buffer held.
    Lie,
    /// A durable write is acknowledged, and durable only with the next flush.
    Volatile,
    /// A write lands at another place, drawn from the seed.
    Misdirect,
    /// A write is acknowledged, but ends at a sector drawn from the seed.
    Tear,
    /// One bit, drawn from the seed, flips: in what a read returns (and only there), or in what a write stores.
    Flip,
    /// A read returns what the medium holds: as if nothing had been written since the last flush.
    Stale,
}

/// A rule: of the operations `on` that touch `range` (`None`: any), `when` it says, `effect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which kind.
    pub on: On,
    /// Bytes on the device.
    pub range: Option<Range<u64>>,
    /// Which of those.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

impl Rule {
    /// Of any place.
    #[must_use]
    pub const fn new(on: On, when: When, effect: Effect) -> Rule {
        Rule { on, range: None, when, effect }
    }

    /// Only of operations that touch this range.
    #[must_use]
    pub fn within(self, range: Range<u64>) -> Rule {
        Rule { range: Some(range), ..self }
    }
}

/// A rule that struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Number of the rule, in the order in which they were given.
    pub rule: usize,
    /// What it struck.
    pub on: On,
    /// Where.
    pub offset: u64,
    /// What happened.
    pub effect: Effect,
}

/// The rules of a device, and what came of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    rules: Vec<(Rule, u64)>,
    pub(super) fired: Vec<Fired>,
}

impl Rules {
    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What happens to an operation: the first rule that strikes. All that match count it.
    pub(super) fn strike(&mut self, on: On, touched: &Range<u64>, random: &mut Random) -> Option<Effect> {
        let mut struck = None;
        for (index, (rule, seen)) in self.rules.iter_mut().enumerate() {
            let here = rule.range.as_ref().is_none_or(|range| range.start < touched.end && touched.start < range.end);
            if rule.on != on || !here {
                continue;
            }
            let number = *seen;
            *seen += 1;
            let strikes = match rule.when {
                When::Nth(nth) => number == nth,
                When::From(first) => number >= first,
                When::Chance(parts) => (random.next() >> 48) < u64::from(parts),
            };
            if strikes && struck.is_none() {
                struck = Some(rule.effect);
                self.fired.push(Fired { rule: index, on, offset: touched.start, effect: rule.effect });
            }
        }
        struck
    }
}
