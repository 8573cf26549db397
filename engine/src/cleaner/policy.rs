//! Which container to clean next. Pure arithmetic; decision 0009 derives it and compares it with others.
//!
//! A container that loses its blocks at rate r is worth cleaning at the live share u where a unit of space given to any other container would save as much copying:
//! (1/u - 1 + ln u) / r is equal for all. A container closed full, with u left at age a, shows r = -ln u / a itself. So the victim is the one with the largest
//! `a * ((1 - u) / (-u * ln u) - 1)`: greedy for equal ages, oldest first for equal shares, and without a constant to tune.

/// A container that may be cleaned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) container: u32,
    pub(super) live: u32,
    /// Containers opened since it was closed.
    pub(super) age: u64,
}

/// Larger is better. `live` of `units` live.
pub fn score(live: u32, units: u32, age: u64) -> f64 {
    let share = (f64::from(live) / f64::from(units.max(1))).clamp(1e-6, 1.0 - 1e-6);
    let benefit = (1.0 - share) / (-share * share.ln()) - 1.0;
    // Ages of containers fit a double exactly for longer than any device lives.
    #[expect(clippy::cast_precision_loss, reason = "a score")]
    let age = (age + 1) as f64;
    age * benefit
}

/// The best `count` of those with at most `live_max` live units, best last.
pub(super) fn best(candidates: impl Iterator<Item = Candidate>, units: u32, live_max: u32, count: usize) -> Vec<u32> {
    let mut scored: Vec<(f64, u32)> = candidates
        .filter(|found| found.live > 0 && found.live <= live_max)
        .map(|found| (score(found.live, units, found.age), found.container))
        .collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(count);
    scored.into_iter().rev().map(|(_, container)| container).collect()
}

/// The `count` with the least in them, the emptiest last: what gives back most when there is hardly room for copies.
pub(super) fn emptiest(candidates: impl Iterator<Item = Candidate>, live_max: u32, count: usize) -> Vec<u32> {
    let mut all: Vec<(u32, u32)> = candidates
        .filter(|found| found.live > 0 && found.live <= live_max)
        .map(|found| (found.live, found.container))
        .collect();
    all.sort_unstable();
    all.truncate(count);
    all.into_iter().rev().map(|(_, container)| container).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptier_of_two_of_one_age_and_the_older_of_two_alike_go_first() {
        for age in [0, 7, 1000] {
            assert!((1..99).all(|live| score(live, 100, age) > score(live + 1, 100, age)));
        }
        for live in [1, 50, 99] {
            assert!((0..99).all(|age| score(live, 100, age + 1) > score(live, 100, age)));
        }
        // One that lost a tenth long ago will hardly lose more: worth as much as one that just lost half.
        assert!(score(90, 100, 1000) > score(50, 100, 80));
        assert!(score(90, 100, 1000) < score(50, 100, 200));
    }

    #[test]
    fn with_hardly_any_room_the_emptiest_go_first_whatever_their_age() {
        let of = |container, live, age| Candidate { container, live, age };
        let all = [of(1, 90, 9000), of(2, 20, 1), of(3, 0, 5), of(4, 99, 9), of(5, 10, 1)];
        assert_eq!(emptiest(all.into_iter(), 95, 2), [2, 5]);
        assert_eq!(best(all.into_iter(), 100, 95, 1), [1]);
    }

    #[test]
    fn the_best_come_last_and_none_that_gives_too_little() {
        let of = |container, live| Candidate { container, live, age: 5 };
        let found = best([of(1, 90), of(2, 10), of(3, 0), of(4, 99), of(5, 50)].into_iter(), 100, 95, 2);
        assert_eq!(found, [5, 2]);
    }
}
