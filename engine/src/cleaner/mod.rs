//! The cleaner: copies what lives in victims to containers of survivors, so that the victims can be released. Takes no shared record (INV-39).
//!
//! ```text
//! idle --choose--> job (a victim's pieces) --copy*, paced--> emptied --publish: installed, released--> free
//!                                                 \--writers wait, or too little is free: at full speed inside the checkpoint
//! ```
//! Copies are made *between* checkpoints, an amount for every byte that writers were admitted with; the next checkpoint installs them: after all their writes are done,
//! before its pages are written (INV-13: the sources are reused only when it is published). Whatever died meanwhile is left out then. If power fails, the sources are
//! what counts.

mod occupancy;
mod pieces;
mod policy;

pub use occupancy::{Closed, Occupancy, Use};
pub use policy::score as victim_score;

use crate::StoreError;
use crate::engine::{Engine, Writer};
use crate::space::admission::SPARE;
use crate::space::heat::{Evidence, Heat};
use crate::space::{BACKGROUND_DEPTH, Container, Space, StreamKind};
use crate::state::{Fragment, State};
use crate::store::Result;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::{ReferenceKind, UNIT};
use pieces::{Copied, Piece, Table};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Most bytes copied between two looks at the clock and at those who wait: what is in flight for the cleaner.
const STEP_BYTES: u64 = 1 << 20;
/// Victims chosen at a time: a choice looks at every container.
const CHOICE: usize = 8;

/// What the cleaner is at. One thread at a time; a checkpoint holds it to its end.
#[derive(Default)]
pub(crate) struct Cleaning {
    progress: Mutex<Progress>,
    /// Bytes admitted that no copying answers yet.
    credit: AtomicU64,
    /// Containers that the next publication releases: what writers count on.
    coming: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Progress {
    chosen: Vec<u32>,
    job: Option<Job>,
    moves: Vec<Moved>,
    /// Containers that these moves go to: what lives in them is not known before they are installed.
    filling: BTreeSet<u32>,
    emptied: BTreeSet<u32>,
    /// Holds something that cannot be read, or was not released although it was emptied: left alone until it is free, or the next mount.
    damaged: BTreeSet<u32>,
    /// This checkpoint took a container that it should have kept.
    deep: bool,
    /// Bytes copied that were not due yet.
    ahead: u64,
    /// Containers that the last publication took after its cleaning, for pages mostly.
    takes: u32,
}

struct Job {
    container: u32,
    live: u32,
    heat: Heat,
    table: Table,
    /// In order of their units, the last first.
    pieces: Vec<Piece>,
    complete: bool,
}

/// Units copied from one place to another.
pub(crate) struct Moved {
    piece: Piece,
    to: Fragment,
}

/// How hard to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As much as was admitted.
    Paced,
    /// Until the target is reached or room ends.
    Hurry,
}

impl Cleaning {
    /// Writers were let in with so many bytes.
    pub(crate) fn admitted(&self, bytes: u64) {
        self.credit.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Containers that the next publication releases.
    pub(crate) fn coming(&self) -> u32 {
        u32::try_from(self.coming.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }
    /// As if it had emptied so many.
    #[cfg(test)]
    pub(crate) fn expect(&self, containers: u64) {
        self.coming.store(containers, Ordering::Relaxed);
    }
}

impl Progress {
    /// What was copied and waits to be installed.
    pub(crate) fn take_moves(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moves)
    }

    /// A publication took so many containers after its cleaning.
    pub(crate) const fn took(&mut self, containers: u32) {
        self.takes = containers;
    }
    /// So many more than the target a publication cleans: writers would have to wait for the next one otherwise.
    pub(crate) const fn takes(&self) -> u32 {
        self.takes
    }

    /// Whether a container is no victim now: its survivors are on their way, or it holds some that are, or they cannot be read.
    fn is_barred(&self, container: u32) -> bool {
        [&self.filling, &self.emptied, &self.damaged].iter().any(|set| set.contains(&container))
    }

    /// Containers that are left alone ([`Progress::damaged`]).
    #[cfg(test)]
    pub(crate) const fn damaged(&self) -> &BTreeSet<u32> {
        &self.damaged
    }

    /// A checkpoint has been published: what it released is not coming any more.
    pub(crate) fn published(&mut self, cleaning: &Cleaning, released: &BTreeSet<u32>) {
        self.deep = false;
        // What was chosen may have been released since and hold something else, that nobody published.
        self.chosen.clear();
        self.filling.clear();
        self.emptied.retain(|container| !released.contains(container));
        // Emptied, installed, and still not released: not to be counted on.
        cleaning.coming.store(0, Ordering::Relaxed);
        self.damaged.append(&mut self.emptied);
        // What lies in a container that is free again is something else.
        self.damaged.retain(|container| !released.contains(container));
        if self.job.as_ref().is_some_and(|job| released.contains(&job.container)) {
            self.job = None;
        }
    }
}

impl Cleaning {
    /// Waits for a step under way and keeps the cleaner still.
    pub(crate) fn hold(&self) -> crate::sync::MutexGuard<'_, Progress> {
        self.progress.lock()
    }
}

impl Engine {
    /// Copies ahead of the next checkpoint what admitted bytes are due; true if it did something. Called while waiting for a checkpoint to be due
    /// ([`Store::wait_checkpoint`](crate::store::Store::wait_checkpoint)); a store without threads calls it where it likes.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Poisoned`]. What cannot be read is left where it is and told in the log.
    pub fn clean_ahead(&self) -> Result<bool> {
        let writer = self.writer()?;
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        match writer.cleaning.progress.try_lock() {
            Some(mut progress) => {
                let timing = self.metrics.time(&self.metrics.cleaner.ahead);
                let worked = self.clean(writer, &mut progress, Pace::Paced, 0);
                if !matches!(worked, Ok(true)) {
                    timing.cancel();
                }
                worked
            }
            None => Ok(false),
        }
    }

    /// Copies everything that lives in the best victim, whether space is wanted or not.
    #[cfg(test)]
    pub(crate) fn clean_anyway(&self) -> Result<bool> {
        let writer = self.writer()?;
        let mut progress = writer.cleaning.progress.lock();
        if progress.job.is_none() && !self.next_job(writer, &mut progress, self.shape.units())? {
            return Ok(false);
        }
        while progress.job.is_some() && self.step(writer, &mut progress, STEP_BYTES, Pace::Hurry)? > 0 {}
        Ok(true)
    }

    /// The cleaner's part of a checkpoint: what is missing, if writers wait or will have to, beside the containers in which nothing lives any more.
    pub(crate) fn clean_now(&self, writer: &Writer, progress: &mut Progress, dead: &BTreeSet<u32>) -> Result<()> {
        // What was emptied is counted as coming already, although it is dead only when its survivors are installed.
        let dead = dead.iter().filter(|container| !progress.emptied.contains(container)).count();
        self.clean(writer, progress, Pace::Hurry, u32::try_from(dead).unwrap_or(u32::MAX)).map(|_| ())
    }

    /// Whether a publication is due only to release what was emptied: what is free now nears what writers must leave.
    pub(crate) fn is_release_due(&self, writer: &Writer) -> bool {
        let free = writer.free();
        let floor = writer.admission.needed_containers();
        free.coming > floor / 8 && free.now <= floor + floor / 8 + 1
    }

    /// Containers still to be gained beside the dead ones, and `takes` beyond the target; and the largest live share that a victim may have.
    fn debt(&self, writer: &Writer, dead: u32, takes: u32) -> (u32, u32) {
        if writer.held.lock().is_stuck(self.reader.pins.version()) {
            // What is emptied would be held back too, and the copies take room.
            return (0, 0);
        }
        let ahead = writer.space.free_containers().saturating_add(writer.cleaning.coming()).saturating_add(dead);
        let target = self.clean_target(writer).saturating_add(takes);
        let units = self.shape.units();
        let debt = target.saturating_sub(ahead);
        self.metrics.cleaner.debt.set(debt.into());
        if debt > 0 {
            (debt, units - units / 32)
        } else if ahead < self.shape.containers / 5 {
            // There is room, but not plenty: only what costs next to nothing.
            (1, units / 8)
        } else {
            (0, 0)
        }
    }

    fn clean(&self, writer: &Writer, progress: &mut Progress, pace: Pace, dead: u32) -> Result<bool> {
        let (mut worked, mut owed) = (false, 0_u64);
        loop {
            let takes = if pace == Pace::Hurry { progress.takes } else { 0 };
            let (debt, live_max) = self.debt(writer, dead, takes);
            // What was copied is remembered until the next publication.
            if debt == 0 || progress.moves.len() as u64 >= self.options.settings.moves_max(self.shape.units()) {
                writer.cleaning.credit.store(0, Ordering::Relaxed);
                return Ok(worked);
            }
            if progress.job.is_none() && !self.next_job(writer, progress, live_max)? {
                writer.cleaning.credit.store(0, Ordering::Relaxed);
                return Ok(worked);
            }
            let Some(job) = &progress.job else { return Ok(worked) };
            let step = match pace {
                Pace::Hurry => STEP_BYTES,
                Pace::Paced => {
                    if owed == 0 {
                        let credit = writer.cleaning.credit.swap(0, Ordering::Relaxed);
                        let due = due(credit, job.live, self.shape.units(), debt, self.clean_target(writer));
                        owed = due.saturating_sub(progress.ahead);
                        progress.ahead = progress.ahead.saturating_sub(due);
                    }
                    if owed == 0 {
                        return Ok(worked);
                    }
                    owed.min(STEP_BYTES)
                }
            };
            let copied = self.step(writer, progress, step, pace)?;
            if copied == 0 {
                return Ok(worked);
            }
            worked = true;
            if pace == Pace::Paced {
                // A row is copied whole.
                progress.ahead += copied.saturating_sub(owed);
            }
            owed = owed.saturating_sub(copied);
            if pace == Pace::Paced && owed == 0 {
                return Ok(true);
            }
        }
    }

    /// Takes the next victim; false if there is none.
    fn next_job(&self, writer: &Writer, progress: &mut Progress, live_max: u32) -> Result<bool> {
        let mut chose = false;
        loop {
            let Some(container) = progress.chosen.pop() else {
                if chose {
                    return Ok(false);
                }
                chose = true;
                let (chosen, evidence) = self.choose(writer, progress, live_max);
                progress.chosen = chosen;
                writer.space.judge_heat(&evidence)?;
                continue;
            };
            let Some(row) = writer.space.with_containers(|containers| containers.get(container).copied()) else {
                continue;
            };
            let free = matches!(row.state, ContainerState::Free | ContainerState::Open | ContainerState::System);
            if free || progress.is_barred(container) {
                continue;
            }
            let Some((table, pieces, complete)) = self.pieces_of(container, &row) else {
                progress.damaged.insert(container);
                continue;
            };
            let live = pieces.iter().map(|piece| piece.units).sum();
            self.metrics.cleaner.victims.increment();
            progress.job = Some(Job { container, live, heat: row.heat, table, pieces, complete });
            return Ok(true);
        }
    }

    fn choose(&self, writer: &Writer, progress: &Progress, live_max: u32) -> (Vec<u32>, Evidence) {
        self.metrics.cleaner.runs.increment();
        let space = &writer.space;
        let now = space.openings();
        let closed = self.candidates(space);
        let free = space.free_containers();
        let tight = writer.admission.needed_containers().max(SPARE + 2);
        let state = self.state.lock();
        let held: BTreeSet<u32> = {
            let held = writer.held.lock();
            closed.iter().map(|(container, _)| *container).filter(|container| held.holds(*container)).collect()
        };
        let candidates = closed.iter().filter(|(container, kind)| {
            *kind != ContainerState::System && !progress.is_barred(*container) && !held.contains(container)
        });
        space.with_containers(|containers| {
            let mut evidence = Evidence::default();
            let candidates = candidates.map(|(container, _)| {
                let live = state.live_in(*container);
                let row = containers.get(*container);
                let age = now.saturating_sub(row.map_or(now, |row| row.closed_at));
                if let Some(row) = row.filter(|row| row.closed_at >= space.first_opening() && is_data(row)) {
                    evidence.add(row.heat, row.used_units, live, age);
                }
                policy::Candidate { container: *container, live, age }
            });
            let chosen = if free <= tight {
                policy::emptiest(candidates, live_max, CHOICE)
            } else {
                policy::best(candidates, self.shape.units(), live_max, CHOICE)
            };
            (chosen, evidence)
        })
    }

    /// Copies about so many bytes of the job; 0 if there is no room for the copies.
    fn step(&self, writer: &Writer, progress: &mut Progress, bytes: u64, pace: Pace) -> Result<u64> {
        let Some(job) = &mut progress.job else { return Ok(0) };
        let mut batch = Vec::new();
        let mut left = bytes / u64::from(UNIT);
        while let Some(piece) = job.pieces.pop() {
            left = left.saturating_sub(piece.units.into());
            let together = job.pieces.last().is_some_and(|next| pieces::share_a_row(&job.table, &piece, next));
            batch.push(piece);
            if left == 0 && !together {
                break;
            }
        }
        let (mut done, mut full) = (0_u64, false);
        let keep = self.kept_from_survivors(writer, pace, progress.moves.len());
        let mut copies = self.read_pieces(&writer.space, job.container, &job.table, &batch);
        job.complete &= copies.len() == batch.len();
        copies.sort_by_key(|copy| (copy.rows.first().map_or(0, |row| row.owner), copy.piece.segment, copy.piece.slot));
        let mut copies = copies.into_iter();
        let counts = &self.metrics.cleaner;
        for copy in copies.by_ref() {
            let is_data = copy.rows.first().is_some_and(|row| row.kind == ReferenceKind::Extent);
            let piece = copy.piece;
            let heat = match is_data {
                true => writer.space.heat_of_survivor(job.heat, piece.segment),
                false => Heat::NODES,
            };
            let Some(to) = self.append_survivor(writer, heat, &copy, (pace, keep), &mut progress.deep)? else {
                job.pieces.push(piece);
                full = true;
                break;
            };
            writer.space.make_way(BACKGROUND_DEPTH);
            done += u64::from(piece.units) * u64::from(UNIT);
            counts.moved.increment();
            counts.moved_bytes.add(u64::from(piece.units) * u64::from(UNIT));
            if is_data {
                counts.moved_data_bytes.add(u64::from(piece.units) * u64::from(UNIT));
            }
            progress.filling.insert(to.container);
            progress.moves.push(Moved { piece, to });
        }
        job.pieces.extend(copies.map(|copy| copy.piece));
        job.pieces.sort_unstable_by_key(|piece| std::cmp::Reverse(piece.unit));
        if job.pieces.is_empty() {
            if job.complete {
                counts.emptied.increment();
                progress.emptied.insert(job.container);
                writer.cleaning.coming.store(progress.emptied.len() as u64, Ordering::Relaxed);
            } else {
                progress.damaged.insert(job.container);
            }
            progress.job = None;
        }
        // What does not verify is work too: only for lack of room is there nothing more to do.
        Ok(if full { done } else { done.max(1) })
    }

    /// Appends a copy to the survivors of its heat, or to any that have room; none if a checkpoint may need what is free.
    fn append_survivor(
        &self,
        writer: &Writer,
        heat: Heat,
        copy: &Copied,
        (pace, keep): (Pace, u32),
        deep: &mut bool,
    ) -> Result<Option<Fragment>> {
        let space = &writer.space;
        let units = copy.piece.units;
        let align = if units >= 8 { 8 } else { 1 };
        let place = |(container, offset_units)| Some(Fragment { units, container, offset_units });
        let free = space.free_containers();
        let floor = self.survivors_floor(writer, pace, free, keep, *deep);
        let mut stream = space.survivors(heat);
        match stream.append_fragment(space, Arc::clone(&copy.bytes), align, &copy.rows, floor) {
            Ok(at) => {
                *deep |= space.free_containers() < free && floor < keep;
                return Ok(place(at));
            }
            Err(StoreError::NoSpace { .. }) => drop(stream),
            Err(error) => return Err(error),
        }
        for other in space.kinds_of_survivors() {
            let mut stream = space.survivors(other);
            if stream.has_room(space, units, align, copy.rows.len()) {
                let at = stream.append_fragment(space, Arc::clone(&copy.bytes), align, &copy.rows, u32::MAX)?;
                return Ok(place(at));
            }
        }
        Ok(None)
    }

    /// Free containers that survivors leave alone, with so many pieces copied in this publication.
    fn kept_from_survivors(&self, writer: &Writer, pace: Pace, moves: usize) -> u32 {
        let budget = &writer.admission.budget;
        if pace == Pace::Paced {
            return writer.admission.needed_containers();
        }
        // What writers were promised, the rest of this checkpoint, and the next one's nodes come first.
        let (all, promised) = {
            let ledger = writer.admission.ledger.lock();
            (ledger.pages, ledger.data)
        };
        let mut pages = all;
        if all > budget.dirty_max {
            // What the batch changed is known by now. Each piece changes a page, some of them larger than others.
            let state = self.state.lock();
            let mean = all / (state.table().len() as u64).max(1);
            pages = state.dirty_page_bytes() + 2 * mean * (moves as u64 + u64::from(self.shape.units()));
        }
        let first = budget.dirty_max.max(pages.min(all)) + promised;
        u32::try_from(first.div_ceil(budget.container_bytes)).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// The same in a publication.
    #[cfg(test)]
    pub(crate) fn kept_from_survivors_in_a_hurry(&self, writer: &Writer) -> u32 {
        self.kept_from_survivors(writer, Pace::Hurry, 0)
    }

    /// The same for one piece: one container can always be turned over.
    fn survivors_floor(&self, writer: &Writer, pace: Pace, free: u32, keep: u32, deep: bool) -> u32 {
        let turns = pace == Pace::Hurry && free <= keep && free > 2 && !deep;
        let bytes = writer.admission.budget.container_bytes / 4;
        if turns && self.has_room_for_pages(writer, bytes) { free - 1 } else { keep }
    }

    /// The copies are on the device: from now on they are found there. What died, or lies elsewhere by now, is left out.
    pub(crate) fn install(&self, space: &Space, mut moves: Vec<Moved>) -> Result<()> {
        // Those of one segment in their order. A victim of survivors has pieces of thousands of segments, whose pages need not fit into memory together.
        moves.sort_by_key(|moved| moved.piece.segment);
        let mut numbers: Vec<u32> = moves.iter().map(|moved| moved.piece.segment).collect();
        numbers.dedup();
        let (mut rest, mut moves) = (numbers.as_slice(), moves.as_slice());
        while !rest.is_empty() {
            let part;
            (part, rest) = self.part_of(rest);
            let end =
                rest.first().map_or(moves.len(), |next| moves.partition_point(|moved| moved.piece.segment < *next));
            let installed;
            (installed, moves) = moves.split_at(end);
            self.install_part(part, installed)?;
            self.spill(space)?;
        }
        Ok(())
    }

    fn install_part(&self, touched: &[u32], moves: &[Moved]) -> Result<()> {
        self.load_segments(&touched.iter().copied().collect())?;
        let mut state = self.state.lock();
        let mut changed = BTreeSet::new();
        for Moved { piece, to } in moves {
            for part in living_parts(&state, piece) {
                let offset_units = to.offset_units + (part.start - piece.slot);
                let to = Fragment { units: part.end - part.start, container: to.container, offset_units };
                let moved = state.move_units(piece.segment, part.start, to);
                moved.map_err(|error| StoreError::Misuse(error.to_string()))?;
                changed.insert(piece.segment);
            }
        }
        state.measure(touched.iter().copied());
        drop(state);
        self.keep_buried();
        let state = self.state.lock();
        // Of the others no page need be written, and one that is told here stays in memory until then.
        for number in changed {
            if let Some(segment) = state.segment(number) {
                self.reader.set_moved(number, segment.moved.clone());
            }
        }
        Ok(())
    }
}

/// Whether what lies in a container is told apart by heat.
fn is_data(row: &Container) -> bool {
    [StreamKind::Data, StreamKind::Survivors].iter().any(|kind| kind.code() == row.stream) && row.heat != Heat::NODES
}

/// What of a piece still lives where it was read.
fn living_parts(state: &State, piece: &Piece) -> Vec<Range<u32>> {
    let range = piece.slot..piece.slot + piece.units;
    let Some(segment) = state.segment(piece.segment) else { return Vec::new() };
    let mut parts = Vec::new();
    for live in segment.live.inside(&range) {
        let mut slot = live.start;
        for (container, unit, units) in state.locate(piece.segment, &live) {
            if container == Some(piece.container) && unit == piece.unit + (slot - piece.slot) {
                parts.push(slot..slot + units);
            }
            slot += units;
        }
    }
    parts
}

/// Bytes to copy for `credit` bytes admitted: what keeps the free space as it is, and more the less there is.
fn due(credit: u64, live: u32, units: u32, debt: u32, target: u32) -> u64 {
    let gain = u64::from(units.saturating_sub(live).max(1));
    let holds = u128::from(credit) * u128::from(live) / u128::from(gain);
    let boosted = holds + holds * u128::from(debt) * 16 / u128::from(target.max(1));
    u64::try_from(boosted).unwrap_or(u64::MAX)
}
