//! The images that a power cut at some place of a recording may leave.
//!
//! At a cut, a write is
//! - *durable*: it completed successfully before the begin of a flush that succeeded and ended before the cut, or it was
//!   a durable write and completed successfully;
//! - *absent*: it was issued after the cut;
//! - *failed*: it was answered with an error, or covered by a failed flush first: kept, dropped or torn, but it never
//!   replaces a durable write that was issued after it;
//! - *at risk*: all others: kept, dropped or torn at 512 bytes, in any order; but none replaces a durable write that was
//!   issued after it.

use super::super::image::{DeviceImage, Mercy, Payload, lose_power};
use super::super::random::Random;
use super::{Event, Recording};

/// What a power cut does to a sector that was being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectorFate {
    /// The new bytes are there.
    Kept,
    /// The old ones are.
    Gone,
    /// Neither: what a disk with larger physical sectors, or none of its promises, may do.
    Destroyed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Absent,
    AtRisk,
    Completed,
    Failed,
    Durable,
}

struct Issued {
    offset: u64,
    payload: Payload,
    /// Durable at its completion.
    durable: bool,
    /// How it stands at `position`.
    fate: Fate,
    /// Later durable writes over part of it that became durable before it.
    covered_by: Vec<usize>,
}

/// One line of the log, without the bytes.
#[derive(Clone, Copy)]
enum Step {
    Issued(usize),
    Completed(usize, bool),
    FlushBegin(usize),
    FlushEnd(usize, bool),
}

/// Makes the device image for a power cut anywhere in a recording. Cuts in rising order cost only what lies between
/// them and what is at risk; going back starts over. All recorded bytes are held in memory.
pub struct CrashImages {
    base: DeviceImage,
    steps: Vec<Step>,
    writes: Vec<Issued>,
    /// Steps that are taken into account.
    position: usize,
    /// Base and all durable writes, in the order in which they were issued.
    durable: DeviceImage,
    /// Neither absent nor durable, ascending.
    unsettled: Vec<usize>,
    /// By flush: the writes that had completed when it began and were not durable.
    covered: Vec<Vec<usize>>,
}

impl CrashImages {
    /// `base` is what the device held, durably, before the recording began.
    ///
    /// # Errors
    /// If the recording's spill file cannot be read, or lost a write.
    pub fn new(base: DeviceImage, recording: &Recording) -> std::io::Result<CrashImages> {
        let log = recording.recorder.log.lock();
        let (mut steps, mut writes) = (Vec::with_capacity(log.events.len()), Vec::with_capacity(log.writes));
        let mut flushes = 0;
        for event in &log.events {
            steps.push(match event {
                Event::Issued { offset, contents, durable } => {
                    let payload = recording.recorder.payload(contents)?;
                    let (fate, covered_by) = (Fate::Absent, Vec::new());
                    writes.push(Issued { offset: *offset, payload, durable: *durable, fate, covered_by });
                    Step::Issued(writes.len() - 1)
                }
                Event::Completed { write, succeeded } => Step::Completed(*write, *succeeded),
                Event::FlushBegin => {
                    flushes += 1;
                    Step::FlushBegin(flushes - 1)
                }
                Event::FlushEnd { flush, succeeded } => Step::FlushEnd(*flush, *succeeded),
            });
        }
        let durable = base.clone();
        let covered = vec![Vec::new(); flushes];
        Ok(CrashImages { base, steps, writes, position: 0, durable, unsettled: Vec::new(), covered })
    }

    /// Where a cut can be: 0 (before everything) to this number (after everything), both included.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.steps.len()
    }

    /// What a cut after the first `position` events may leave; `seed` draws the fate of every write at risk.
    #[must_use]
    pub fn at(&mut self, position: usize, seed: u64) -> DeviceImage {
        self.go_to(position);
        let mut random = Random::new(seed);
        let mercy = Mercy::draw(&mut random);
        let mut image = self.durable.clone();
        let (failed, mut at_risk): (Vec<usize>, Vec<usize>) =
            self.unsettled.iter().partition(|write| self.fate(**write) == Fate::Failed);
        for write in &failed {
            if let Some(Issued { offset, payload, .. }) = self.writes.get(*write) {
                lose_power(payload, *offset, &mut image, &mercy, &mut random);
            }
        }
        if let Some(first) = failed.first() {
            for later in self.writes.iter().skip(*first).filter(|write| write.fate == Fate::Durable) {
                later.payload.apply(later.offset, &mut image);
            }
        }
        mercy.order(&mut at_risk, &mut random);
        for write in at_risk {
            if let Some(Issued { offset, payload, covered_by, .. }) = self.writes.get(write) {
                lose_power(payload, *offset, &mut image, &mercy, &mut random);
                apply_all(&self.writes, covered_by, &mut image);
            }
        }
        image
    }

    /// Every `stride`-th cut and the last one, each with a seed of its own drawn from `seed`: (position, seed, image).
    pub fn every(&mut self, stride: usize, seed: u64) -> impl Iterator<Item = (usize, u64, DeviceImage)> + '_ {
        let last = self.positions();
        let cuts = (0..last).step_by(stride.max(1)).chain(std::iter::once(last));
        let mut random = Random::new(seed);
        cuts.map(move |position| {
            let seed = random.next();
            (position, seed, self.at(position, seed))
        })
    }

    /// What this cut leaves when `fate` decides over every sector that is at risk, by its offset; in the order of submission.
    #[must_use]
    pub fn at_with(&mut self, position: usize, mut fate: impl FnMut(u64) -> SectorFate) -> DeviceImage {
        self.go_to(position);
        let mut image = self.durable.clone();
        for write in self.unsettled.iter().filter_map(|write| self.writes.get(*write)) {
            write.payload.for_each_sector(write.offset, |at, sector| match fate(at) {
                SectorFate::Kept => image.write(at, sector),
                SectorFate::Gone => {}
                SectorFate::Destroyed => image.write(at, &sector.map(|byte| byte ^ 0xA5)),
            });
        }
        image
    }

    /// How many writes a cut here may keep, drop or tear; with none, every seed gives the same image.
    #[must_use]
    pub fn at_risk(&mut self, position: usize) -> usize {
        self.go_to(position);
        self.unsettled.len()
    }

    /// Only what is certain at this cut: base and durable writes.
    #[must_use]
    pub fn durable_at(&mut self, position: usize) -> DeviceImage {
        self.go_to(position);
        self.durable.clone()
    }

    fn fate(&self, write: usize) -> Fate {
        self.writes.get(write).map_or(Fate::Absent, |write| write.fate)
    }

    fn set_fate(&mut self, write: usize, fate: Fate) {
        if let Some(write) = self.writes.get_mut(write) {
            write.fate = fate;
        }
    }

    fn go_to(&mut self, position: usize) {
        let position = position.min(self.steps.len());
        if position < self.position {
            self.position = 0;
            self.durable = self.base.clone();
            self.unsettled.clear();
            self.covered.iter_mut().for_each(Vec::clear);
            for write in &mut self.writes {
                write.fate = Fate::Absent;
                write.covered_by.clear();
            }
        }
        while self.position < position {
            if let Some(step) = self.steps.get(self.position).copied() {
                self.take(step);
            }
            self.position += 1;
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Issued(write) => {
                self.set_fate(write, Fate::AtRisk);
                self.unsettled.push(write);
            }
            Step::Completed(write, succeeded) => {
                self.set_fate(write, if succeeded { Fate::Completed } else { Fate::Failed });
                if succeeded && self.writes.get(write).is_some_and(|write| write.durable) {
                    self.cover(write);
                    self.settle(write, true);
                    self.unsettled.retain(|unsettled| *unsettled != write);
                }
            }
            Step::FlushBegin(flush) => {
                let completed = self.unsettled.iter().filter(|write| self.fate(**write) == Fate::Completed);
                let completed = completed.copied().collect();
                if let Some(covered) = self.covered.get_mut(flush) {
                    *covered = completed;
                }
            }
            Step::FlushEnd(flush, succeeded) => {
                let covered = self.covered.get_mut(flush).map(std::mem::take).unwrap_or_default();
                for write in covered {
                    // Another flush may have settled it meanwhile.
                    if self.fate(write) == Fate::Completed {
                        self.settle(write, succeeded);
                    }
                }
                self.unsettled = self.unsettled.iter().copied().filter(|w| self.fate(*w) != Fate::Durable).collect();
            }
        }
    }

    /// Notes a durable write with those before it that are not durable and that it overlaps.
    fn cover(&mut self, write: usize) {
        let range = |write: &Issued| write.offset..write.offset + write.payload.len();
        let Some(covering) = self.writes.get(write).map(range) else { return };
        for before in self.unsettled.iter().take_while(|before| **before < write) {
            if let Some(before) = self.writes.get_mut(*before) {
                let covered = range(before);
                if covered.start < covering.end && covering.start < covered.end {
                    before.covered_by.push(write);
                }
            }
        }
    }

    fn settle(&mut self, write: usize, succeeded: bool) {
        let Some(issued) = self.writes.get_mut(write) else { return };
        if !succeeded {
            issued.fate = Fate::Failed;
            return;
        }
        issued.fate = Fate::Durable;
        issued.payload.apply(issued.offset, &mut self.durable);
        let covered_by = std::mem::take(&mut issued.covered_by);
        apply_all(&self.writes, &covered_by, &mut self.durable);
    }
}

fn apply_all(writes: &[Issued], chosen: &[usize], image: &mut DeviceImage) {
    for write in chosen.iter().filter_map(|write| writes.get(*write)) {
        write.payload.apply(write.offset, image);
    }
}

impl std::fmt::Debug for CrashImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashImages").field("steps", &self.steps.len()).field("position", &self.position).finish()
    }
}
