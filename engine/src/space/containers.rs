//! What is known of each container, and which are free. The lowest free one is taken, so a store is filled from its front, and what was never used costs nothing here.

use super::heat::Heat;
use envoyfs_layout::Hlc;
use envoyfs_layout::directory_page::{ContainerRow, ContainerState};
use std::collections::BTreeSet;

/// A container as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Container {
    /// State.
    pub state: ContainerState,
    /// Stream code.
    pub stream: u8,
    /// Segment that has its home here.
    pub segment: u32,
    /// Units written.
    pub used_units: u32,
    /// Last table part.
    pub last_part: u32,
    /// Smallest birth.
    pub birth_low: Hlc,
    /// Largest birth.
    pub birth_high: Hlc,
    /// How soon what lies in it is expected to die.
    pub heat: Heat,
    /// Containers opened before it was closed; the cleaner's clock. For those of before this mount: [`Containers::order_before`].
    pub closed_at: u64,
    /// It is closed, and all that was written to it has arrived: it can be read, cleaned and reused ([`super::Space::settle`]).
    pub settled: bool,
}

impl Container {
    /// Nothing in it.
    pub const FREE: Self = Self {
        state: ContainerState::Free,
        stream: 0,
        segment: 0,
        used_units: 0,
        last_part: 0,
        birth_low: Hlc::ZERO,
        birth_high: Hlc::ZERO,
        heat: Heat::UNKNOWN,
        closed_at: 0,
        settled: false,
    };

    /// Whether nothing will be appended to it any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !matches!(self.state, ContainerState::Free | ContainerState::Open)
    }
}

impl From<&ContainerRow> for Container {
    fn from(row: &ContainerRow) -> Self {
        Self {
            state: row.state,
            stream: row.stream,
            segment: row.segment,
            used_units: row.used_units,
            last_part: row.last_part,
            birth_low: row.birth_low,
            birth_high: row.birth_high,
            heat: Heat::of_code(row.flags >> ContainerRow::HEAT_SHIFT),
            // Who wrote the table had waited for everything before.
            settled: !matches!(row.state, ContainerState::Free | ContainerState::Open),
            ..Self::FREE
        }
    }
}

/// Containers by number, and which are free.
#[derive(Debug, Default)]
pub struct Containers {
    /// All that are behind these are free.
    rows: Vec<Container>,
    count: u32,
    /// Those of `rows` that are free.
    free: BTreeSet<u32>,
}

impl Containers {
    /// So many, as the segment table says; those behind its last row are free.
    #[must_use]
    pub fn new(rows: Vec<Container>, count: u32) -> Self {
        let free = (0_u32..).zip(&rows).filter(|(_, row)| row.state == ContainerState::Free).map(|(n, _)| n).collect();
        Self { rows, count, free }
    }
    /// Gives those that are closed places before `first`, which is the cleaner's clock as the mount begins: in the order of the youngest object in each, a step from one to the next. No table
    /// holds that clock; by it, what is from before would be older than anything of this mount by orders of magnitude, and be cleaned first whatever lives in it.
    pub fn order_before(&mut self, first: u64) {
        let mut closed: Vec<&mut Container> = self.rows.iter_mut().filter(|row| row.is_closed()).collect();
        closed.sort_by_key(|row| std::cmp::Reverse(row.birth_high));
        (1..).zip(closed).for_each(|(rank, row)| row.closed_at = first.saturating_sub(rank));
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, container: u32) -> Option<&Container> {
        let free = Some(&Container::FREE).filter(|_| container < self.count);
        self.rows.get(container as usize).or(free)
    }
    /// Sets one of them.
    pub fn set(&mut self, container: u32, row: Container) {
        if container >= self.count {
            return;
        }
        let index = container as usize;
        if index >= self.rows.len() {
            self.free.extend(self.behind()..container);
            self.rows.resize(index + 1, Container::FREE);
        }
        if let Some(place) = self.rows.get_mut(index) {
            *place = row;
            if row.state == ContainerState::Free {
                self.free.insert(container);
            } else {
                self.free.remove(&container);
            }
        }
    }
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Container)> {
        let free = std::iter::repeat_n(&Container::FREE, (self.count - self.behind()) as usize);
        (0_u32..).zip(self.rows.iter().chain(free))
    }
    /// Those that may be in use; all behind them are free.
    pub fn used(&self) -> impl Iterator<Item = (u32, &Container)> {
        (0_u32..).zip(&self.rows)
    }
    /// How many are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        u32::try_from(self.free.len()).unwrap_or(u32::MAX).saturating_add(self.count - self.behind())
    }
    /// The first that is free.
    #[must_use]
    pub fn first_free(&self) -> Option<u32> {
        self.free.first().copied().or_else(|| Some(self.behind()).filter(|next| *next < self.count))
    }
    /// For who has filled `before`: the one behind it, so that what is read over the end of `before` lies close together; else the first that is free. What was never used is not taken for that: it costs nothing as long as
    /// there is other room.
    #[must_use]
    pub fn next_free(&self, before: Option<u32>) -> Option<u32> {
        let behind = before.and_then(|before| before.checked_add(1)).filter(|next| self.free.contains(next));
        behind.or_else(|| self.first_free())
    }
    /// The first that has no row.
    fn behind(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX).min(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Container = Container { state: ContainerState::Sealed, ..Container::FREE };

    /// Beside a list that has a row for each.
    #[test]
    fn what_was_never_used_is_free_without_a_row() {
        let mut plain = vec![false; 40];
        let mut containers = Containers::new(vec![USED, Container::FREE], 40);
        plain[0] = true;
        for step in 0..400_u32 {
            let container = step * 7919 % 45;
            let used = step * 31 % 5 < 2 || step > 300;
            containers.set(container, if used { USED } else { Container::FREE });
            if let Some(plain) = plain.get_mut(container as usize) {
                *plain = used;
            }
            let free = plain.iter().filter(|used| !**used).count();
            assert_eq!(containers.free() as usize, free, "step {step}");
            assert_eq!(containers.first_free().map(|n| n as usize), plain.iter().position(|used| !used), "step {step}");
            let all: Vec<bool> = containers.iter().map(|(_, row)| row.state != ContainerState::Free).collect();
            assert_eq!(all, plain, "step {step}");
            assert!(containers.used().count() <= 40 && containers.get(40).is_none() && containers.get(39).is_some());
        }
        assert_eq!(containers.free(), 0);
    }

    #[test]
    fn the_next_container_is_taken_if_it_is_free_and_was_used_before_and_else_the_first() {
        let mut containers = Containers::new(vec![USED; 6], 8);
        assert_eq!(containers.next_free(Some(2)), Some(6), "none of those that were used before");
        for free in [1, 3, 4] {
            containers.set(free, Container::FREE);
        }
        assert_eq!(containers.next_free(Some(2)), Some(3));
        assert_eq!(containers.next_free(Some(3)), Some(4));
        assert_eq!(containers.next_free(Some(4)), Some(1));
        assert_eq!(containers.next_free(Some(5)), Some(1), "6 was never used");
        assert_eq!(containers.next_free(None), Some(1));
        for used in [1, 3, 4, 6, 7] {
            containers.set(used, USED);
        }
        assert_eq!(containers.next_free(Some(7)), None, "the last of the device");
        assert_eq!(containers.next_free(Some(u32::MAX)), None);
        containers.set(0, Container::FREE);
        assert_eq!(containers.next_free(Some(7)), Some(0));
    }
}
