//! A set of units of one segment, as runs.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, not touching runs of units; start -> end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    runs: BTreeMap<u32, u32>,
    units: u32,
}

impl Runs {
    /// Units in the set.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.units
    }

    /// Is nothing in it?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// How many runs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.runs.len()
    }

    /// The parts of a range that are not in the set, in order.
    #[must_use]
    pub fn outside(&self, range: &Range<u32>) -> Vec<Range<u32>> {
        let (mut out, mut at) = (Vec::new(), range.start);
        for part in self.inside(range) {
            if at < part.start {
                out.push(at..part.start);
            }
            at = part.end;
        }
        if at < range.end {
            out.push(at..range.end);
        }
        out
    }

    /// Runs in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.runs.iter().map(|(start, end)| *start..*end)
    }

    /// The parts of a range that are in the set, in order.
    #[must_use]
    pub fn inside(&self, range: &Range<u32>) -> Vec<Range<u32>> {
        let from = self.runs.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.runs
            .range(from..range.end)
            .map(|(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|part| part.start < part.end)
            .collect()
    }

    /// Adds a range; what is in the set already stays. Returns units added.
    pub fn insert(&mut self, range: Range<u32>) -> u32 {
        if range.start >= range.end {
            return 0;
        }
        let before: u32 = self.inside(&range).iter().map(|part| part.end - part.start).sum();
        let added = range.end - range.start - before;
        let (mut start, mut end) = (range.start, range.end);
        if let Some((left, right)) = self.runs.range(..start).next_back().map(|(a, b)| (*a, *b))
            && right >= start
        {
            self.runs.remove(&left);
            start = left;
            end = end.max(right);
        }
        while let Some((left, right)) = self.runs.range(start..=end).next().map(|(a, b)| (*a, *b)) {
            self.runs.remove(&left);
            end = end.max(right);
        }
        self.runs.insert(start, end);
        self.units += added;
        added
    }

    /// Takes a range out; returns the parts that were in the set.
    pub fn remove(&mut self, range: &Range<u32>) -> Vec<Range<u32>> {
        let parts = self.inside(range);
        for part in &parts {
            let found = self.runs.range(..=part.start).next_back().map(|(a, b)| (*a, *b));
            if let Some((start, end)) = found {
                self.runs.remove(&start);
                if start < part.start {
                    self.runs.insert(start, part.start);
                }
                if part.end < end {
                    self.runs.insert(part.end, end);
                }
            }
            self.units -= part.end - part.start;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_are_a_set_of_units(ops in proptest::collection::vec((any::<bool>(), 0u32..60, 0u32..20), 0..60)) {
            let (mut runs, mut oracle) = (Runs::default(), BTreeSet::new());
            for (insert, start, len) in ops {
                let range = start..start + len;
                let inside: Vec<u32> = runs.inside(&range).into_iter().flatten().collect();
                let want: Vec<u32> = range.clone().filter(|u| oracle.contains(u)).collect();
                prop_assert_eq!(&inside, &want);
                let outside: Vec<u32> = runs.outside(&range).into_iter().flatten().collect();
                prop_assert_eq!(outside, range.clone().filter(|u| !oracle.contains(u)).collect::<Vec<_>>());
                if insert {
                    prop_assert_eq!(runs.insert(range.clone()), len - u32::try_from(want.len()).unwrap());
                    oracle.extend(range);
                } else {
                    let removed: Vec<u32> = runs.remove(&range).into_iter().flatten().collect();
                    prop_assert_eq!(removed, want);
                    for unit in range { oracle.remove(&unit); }
                }
                let all: Vec<u32> = runs.iter().flatten().collect();
                prop_assert_eq!(all, oracle.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(runs.units() as usize, oracle.len());
                let list: Vec<_> = runs.iter().collect();
                prop_assert!(list.windows(2).all(|w| w[0].end < w[1].start));
            }
        }
    }
}
