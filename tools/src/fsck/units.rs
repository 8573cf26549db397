//! Sets of units of a segment, a bit each, and how three of them differ.

use std::ops::Range;

/// Slots are 16 bits.
const UNITS_MAX: u32 = 1 << 16;
const WORD: u32 = 64;

/// A set of units of one segment. Takes memory up to its largest member.
#[derive(Clone, Debug, Default)]
pub struct Units(Vec<u64>);

/// Bits `from..to` of a word.
fn mask(from: u32, to: u32) -> u64 {
    let low = |bits: u32| if bits >= WORD { u64::MAX } else { (1 << bits) - 1 };
    low(to) & !low(from)
}

impl Units {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<u32>) {
        let end = range.end.min(UNITS_MAX);
        let mut at = range.start;
        if at >= end {
            return;
        }
        let words = end.div_ceil(WORD) as usize;
        if let Some(more) = words.checked_sub(self.0.len()).filter(|more| *more > 0) {
            // A vector would double what it takes.
            self.0.reserve_exact(more.max(self.0.len() / 4));
            self.0.resize(words, 0);
        }
        while at < end {
            let start = at / WORD * WORD;
            let to = end.min(start + WORD);
            if let Some(word) = self.0.get_mut((start / WORD) as usize) {
                *word |= mask(at - start, to - start);
            }
            at = to;
        }
    }
    /// Runs of {slot, units}.
    #[must_use]
    pub fn of(runs: &[(u16, u16)]) -> Self {
        let mut units = Self::default();
        runs.iter().for_each(|(slot, length)| units.insert(u32::from(*slot)..u32::from(*slot) + u32::from(*length)));
        units
    }
    /// Takes another set away.
    pub fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(from, what)| *from &= !what);
    }
    /// Adds one; false if it was there.
    pub fn insert_one(&mut self, unit: u32) -> bool {
        let new = !self.contains(unit);
        self.insert(unit..unit + 1);
        new
    }
    /// Adds another set.
    pub fn union(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            *to |= from;
        }
    }
    /// Memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.capacity() as u64 * u64::from(WORD / 8)
    }
    /// Is it in the set?
    #[must_use]
    pub fn contains(&self, unit: u32) -> bool {
        self.word((unit / WORD) as usize) >> (unit % WORD) & 1 == 1
    }
    /// The set as ranges, ascending, not touching.
    #[must_use]
    pub fn runs(&self) -> Vec<Range<u32>> {
        let mut runs = Runs::default();
        for (word, start) in self.0.iter().zip((0_u32..).step_by(WORD as usize)) {
            runs.push_word(start, |bit| (word >> bit & 1 == 1).then_some(()), *word == 0 || *word == u64::MAX);
        }
        runs.finish().into_iter().map(|(range, ())| range).collect()
    }
    fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

/// What is wrong with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// In use, not live: may be overwritten (INV-10).
    NotLive,
    /// Live, and nothing refers to the object (INV-12).
    Leaked,
    /// Live, the object is referred to, this part of it is not used.
    Reclaimable,
}

/// Where `live` differs from what is `used` and `reached`. `complete`: what is not in these sets is unreachable.
#[must_use]
pub fn differences(live: &Units, used: &Units, reached: &Units, complete: bool) -> Vec<(Range<u32>, Difference)> {
    let words = live.0.len().max(used.0.len()).max(reached.0.len());
    let mut runs = Runs::default();
    for (index, start) in (0..words).zip((0_u32..).step_by(WORD as usize)) {
        let (l, u, r) = (live.word(index), used.word(index), reached.word(index));
        let not_live = r & !l;
        let (leaked, reclaimable) = if complete { (l & !u & !r, l & u & !r) } else { (0, 0) };
        let same = [not_live, leaked, reclaimable];
        let uniform = same.iter().all(|word| *word == 0 || *word == u64::MAX);
        runs.push_word(
            start,
            |bit| {
                let at = |word: u64| word >> bit & 1 == 1;
                if at(not_live) {
                    Some(Difference::NotLive)
                } else if at(leaked) {
                    Some(Difference::Leaked)
                } else if at(reclaimable) {
                    Some(Difference::Reclaimable)
                } else {
                    None
                }
            },
            uniform,
        );
    }
    runs.finish()
}

/// Gathers equal neighbours.
struct Runs<T> {
    open: Option<(u32, T)>,
    end: u32,
    done: Vec<(Range<u32>, T)>,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { open: None, end: 0, done: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Runs<T> {
    /// 64 units; when they are all alike only the first is asked.
    fn push_word(&mut self, start: u32, of: impl Fn(u32) -> Option<T>, uniform: bool) {
        let bits = if uniform { 0..1 } else { 0..WORD };
        for bit in bits {
            self.push(start + bit, of(bit));
        }
        self.end = start + WORD;
    }
    fn push(&mut self, unit: u32, what: Option<T>) {
        if self.open.map(|(_, what)| what) == what {
            return;
        }
        if let Some((start, what)) = self.open.take() {
            self.done.push((start..unit, what));
        }
        self.open = what.map(|what| (unit, what));
    }
    fn finish(mut self) -> Vec<(Range<u32>, T)> {
        let end = self.end;
        self.push(end, None);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[Range<u32>]) -> Units {
        let mut units = Units::default();
        ranges.iter().for_each(|range| units.insert(range.clone()));
        units
    }

    #[test]
    fn runs_are_what_was_inserted() {
        for ranges in [[0..1, 2..3], [3..7, 60..70], [63..64, 128..192], [0..64, 65..66], [64..65, 65_000..65_536]] {
            assert_eq!(of(&ranges).runs(), ranges);
        }
        assert!(Units::default().runs().is_empty());
        let mut touching = of(&[1..5, 5..9]);
        assert_eq!(touching.runs().len(), 1);
        assert!(!touching.insert_one(8) && touching.insert_one(9));
    }

    #[test]
    fn differences_name_each_unit_once() {
        let found = differences(&of(&[0..10, 20..30]), &of(&[0..10, 40..42]), &of(&[0..4, 40..42]), true);
        let expected = [(4..10, Difference::Reclaimable), (20..30, Difference::Leaked), (40..42, Difference::NotLive)];
        assert_eq!(found, expected);
        let found = differences(&of(&[0..5, 5..10]), &Units::default(), &of(&[8..9, 9..12]), false);
        assert_eq!(found, [(10..12, Difference::NotLive)]);
    }
}
