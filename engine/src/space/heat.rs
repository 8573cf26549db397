//! Heat: how soon what lies in a container is expected to be overwritten. Data of like heat is written together, so that a container dies as a whole or stays whole
//! (decision 0009: of 10 policies simulated, this one comes nearest to knowing the rates).
//!
//! Nobody keeps a rate per block. What replaces an object starts from the heat of the container that the old one lies in, and goes one class hotter if the old one lived
//! much shorter than its class expects, one colder if much longer; a survivor of cleaning that outlived its class goes one colder. Lives are counted in segments opened,
//! which object ids tell. Pure arithmetic; a container's class stands in the segment table, so a mount goes on where the last one ended.

/// A class; smaller is hotter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heat(u8);

impl Heat {
    /// Nothing is known: the middle of the scale.
    pub const UNKNOWN: Self = Self(u8::MAX);

    /// As the segment table keeps it, in four bits: 0 if nothing is known.
    #[must_use]
    pub const fn code(self) -> u16 {
        if self.0 < 15 { self.0 as u16 + 1 } else { 0 }
    }
    /// The other way.
    #[must_use]
    pub fn of_code(code: u16) -> Self {
        (code & 15).checked_sub(1).and_then(|class| u8::try_from(class).ok()).map_or(Self::UNKNOWN, Self)
    }
}

/// The classes of a store, and the life that each expects.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    classes: u8,
    /// Between the lives of neighbouring classes.
    ratio: u64,
    /// Life of the hottest class, in 1/16 segments.
    shortest: u64,
}

impl Scale {
    /// Of a store with so many containers: few classes where open containers would take much of it.
    #[must_use]
    pub const fn new(containers: u32) -> Self {
        let (classes, ratio) = match containers {
            0..256 => (1, 64),
            256..1024 => (3, 4),
            _ => (6, 2),
        };
        Self::of(classes, ratio, containers)
    }

    /// So many classes, each expecting so many times the life of the one before it; the hottest a 25th of the store.
    #[must_use]
    pub const fn of(classes: u8, ratio: u64, containers: u32) -> Self {
        Self { classes, ratio, shortest: containers as u64 * 16 / 25 + 1 }
    }

    /// Every class, hottest first.
    pub fn all(&self) -> impl Iterator<Item = Heat> {
        (0..self.classes).map(Heat)
    }

    /// The class's own place in a list with one for each.
    #[must_use]
    pub fn pick<'a, T>(&self, each: &'a [T], heat: Heat) -> Option<&'a T> {
        each.get(usize::from(self.known(heat).0))
    }

    fn known(&self, heat: Heat) -> Heat {
        if heat == Heat::UNKNOWN { Heat(self.classes / 2) } else { Heat(heat.0.min(self.classes - 1)) }
    }

    fn life(&self, heat: Heat) -> u64 {
        self.shortest * self.ratio.pow(u32::from(heat.0))
    }

    /// Of what replaces an object of this heat that lived for so many segments.
    #[must_use]
    pub fn of_successor(&self, heat: Heat, lived: u64) -> Heat {
        let heat = self.known(heat);
        if lived * 16 * self.ratio < self.life(heat) {
            Heat(heat.0.saturating_sub(1))
        } else {
            self.of_survivor(heat, lived)
        }
    }

    /// Of what lives still after so many segments.
    #[must_use]
    pub fn of_survivor(&self, heat: Heat, lived: u64) -> Heat {
        let heat = self.known(heat);
        if lived * 16 > self.life(heat) * self.ratio { self.known(Heat(heat.0 + 1)) } else { heat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_follows_the_lives_that_it_sees() {
        let scale = Scale::new(2500);
        let middle = scale.known(Heat::UNKNOWN);
        assert_eq!(middle, Heat(3));
        // The middle expects 800 segments.
        assert_eq!(scale.of_successor(middle, 800), middle);
        assert_eq!(scale.of_successor(middle, 399), Heat(2));
        assert_eq!(scale.of_successor(middle, 1700), Heat(4));
        assert_eq!(scale.of_survivor(middle, 10), middle);
        assert_eq!(scale.of_survivor(middle, 1700), Heat(4));
        let mut heat = middle;
        for _ in 0..10 {
            heat = scale.of_successor(heat, 0);
        }
        assert_eq!(heat, Heat(0));
        for _ in 0..10 {
            heat = scale.of_survivor(heat, 1 << 30);
        }
        assert_eq!(heat, Heat(5));
        for heat in scale.all().chain([Heat::UNKNOWN]) {
            assert_eq!(Heat::of_code(heat.code()), heat);
        }
    }

    #[test]
    fn small_stores_have_one_class() {
        let scale = Scale::new(100);
        assert_eq!(scale.all().collect::<Vec<_>>(), [Heat(0)]);
        assert_eq!(scale.of_successor(Heat::UNKNOWN, 1 << 30), Heat(0));
        assert_eq!(scale.pick(&[7], Heat(5)), Some(&7));
    }
}
