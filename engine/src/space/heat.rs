//! Heat: how soon what lies in a container is expected to be overwritten. Data of like heat is written together, so that a container dies as a whole or stays whole
//! (decision 0009: of 10 policies simulated, this one comes nearest to knowing the rates).
//!
//! Nobody keeps a rate per block. What replaces an object starts from the heat of the container that the old one lies in, and goes one class hotter if the old one lived
//! much shorter than its class expects, one colder if much longer; a survivor of cleaning that outlived its class goes one colder. Lives are counted in segments opened,
//! which object ids tell. Pure arithmetic; a container's class stands in the segment table, so a mount goes on where the last one ended.
//!
//! Where everything is as likely to be overwritten, classes only separate by chance what is alike, and cost 4 to 10 %. [`Evidence`] tells: containers of different
//! classes lose their blocks at the same rate then. Writes go to one class and survivors to another as long as that holds, which goes on showing whether it does.

/// Most classes of data there are: the segment table can tell 15, one of them is for nodes.
const CLASSES_MAX: usize = 14;
/// Lives are taken to be alike from this spread down, and as long as it stays below the other.
const ALIKE_FROM: f64 = 0.15;
const ALIKE_UNTIL: f64 = 0.25;

/// A class; smaller is hotter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heat(u8);

impl Heat {
    /// Nothing is known: the middle of the scale.
    pub const UNKNOWN: Self = Self(u8::MAX);
    /// No class of data: nodes that survived cleaning. Most die within a few checkpoints, so that whatever they lie with is full of holes.
    pub const NODES: Self = Self(14);

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

    /// Where writes go while lives are alike, and where survivors go: apart, so that it shows when lives differ.
    #[must_use]
    pub fn of_alike(&self) -> (Heat, Heat) {
        let write = self.known(Heat::UNKNOWN);
        (write, self.known(Heat(write.0 + 1)))
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

/// At what rates containers of each class lose their blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// By class: share of blocks lost, and how long so many blocks were exposed, over all its containers.
    sums: [(f64, f64); CLASSES_MAX],
}

impl Evidence {
    /// A container that was closed with `closed` units, has `live` of them left, so many containers opened later.
    pub fn add(&mut self, heat: Heat, closed: u32, live: u32, age: u64) {
        let Some(sum) = self.sums.get_mut(usize::from(heat.0)) else { return };
        if closed == 0 || age == 0 {
            return;
        }
        let share = (f64::from(live) / f64::from(closed)).clamp(1e-6, 1.0 - 1e-6);
        // Ages of containers fit a double exactly for longer than any device lives.
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let age = age as f64;
        // What decays from 1 to `share` at a constant rate is this much on average.
        let mean = (share - 1.0) / share.ln();
        sum.0 += 1.0 - share;
        sum.1 += age * mean;
    }

    /// Standard deviation of the logarithm of the rate, over all exposure; none if nothing was lost yet. 0.02 and less for uniform overwrites, 0.3 to 0.5 for Zipf's law with exponent 0.8.
    #[must_use]
    pub fn spread(&self) -> Option<f64> {
        let (lost, exposed) = self.sums.iter().fold((0.0, 0.0), |all, sum| (all.0 + sum.0, all.1 + sum.1));
        if lost <= 0.0 || exposed <= 0.0 {
            return None;
        }
        let rate = lost / exposed;
        let squares = self.sums.iter().filter(|sum| sum.1 > 0.0).map(|sum| {
            let ratio = sum.0 / sum.1 / rate;
            // A class that loses nothing differs by a finite amount.
            sum.1 * ratio.max(1.0 / 64.0).ln().powi(2)
        });
        Some((squares.sum::<f64>() / exposed).sqrt())
    }

    /// Whether lives are alike; `before` if it is neither clear that they are nor that they are not.
    #[must_use]
    pub fn are_alike(&self, before: bool) -> bool {
        match self.spread() {
            Some(spread) => spread < if before { ALIKE_UNTIL } else { ALIKE_FROM },
            None => before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "units of a container")]
    fn classes_that_lose_their_blocks_at_one_rate_are_alike_and_others_are_not() {
        let scale = Scale::new(2500);
        let with = |rate: &dyn Fn(Heat) -> f64| {
            let mut evidence = Evidence::default();
            for age in 1..100 {
                for heat in scale.all() {
                    evidence.add(
                        heat,
                        8192,
                        (8192.0 * (-f64::from(age) * rate(heat)).exp()) as u32,
                        age.try_into().unwrap(),
                    );
                }
            }
            evidence
        };
        let alike = with(&|_| 0.004);
        assert!(alike.spread().unwrap() < 0.01, "{alike:?}");
        assert!(alike.are_alike(false) && alike.are_alike(true));
        let skewed = with(&|heat| 0.016 / f64::from(1 << heat.0));
        assert!(skewed.spread().unwrap() > 0.5, "{skewed:?}");
        assert!(!skewed.are_alike(false) && !skewed.are_alike(true));
        let idle = with(&|heat| if heat == Heat(5) { 0.0 } else { 0.01 });
        assert!(!idle.are_alike(true), "{idle:?}");
        // Neither this nor that: it stays as it was. And nothing is not evidence.
        let between = with(&|heat| 0.01 * (1.0 + 0.11 * f64::from(heat.0)));
        assert!(between.are_alike(true) && !between.are_alike(false), "{:?}", between.spread());
        assert!(Evidence::default().are_alike(true) && !Evidence::default().are_alike(false));
        assert_eq!(scale.of_alike(), (Heat(3), Heat(4)));
        assert_eq!(Scale::new(100).of_alike(), (Heat(0), Heat(0)));
    }

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
