//! Admission: who may start an operation, in bytes of data and of what the next checkpoint will write (INV-25, INV-26). Pure accounting; waiting is the engine's.
//!
//! ```text
//! free containers >= R/2 + data promised         R = 2(D + P) + C/(1-u) + (O + 2)S      for writers
//! free and coming containers >= R + data promised                                       coming: emptied by the cleaner, released by the next publication
//! nodes and payloads admitted since a freeze <= D + P                                   for everybody
//! free containers >= nodes and payloads not written yet + max(5 containers, 3 containers + all pages twice and what they may grow by)     for all but the last tier
//! ```
//!
//! R is sized so that two checkpoints' nodes and payloads, their system pages and the open segments fit: so a writer that is let in never takes what a checkpoint or a
//! deletion needs. Later tiers may go deeper into it.

use crate::engine::{LastMark, Pressure};
use crate::store::{Reason, Tier};
use envoyfs_layout::UNIT;

/// Sizes that follow from the store's size (DESIGN 6, last table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// D + P: bytes of nodes and payloads admitted between two freezes.
    pub dirty_max: u64,
    /// R: bytes that writers leave alone.
    pub reserve: u64,
    /// Bytes of objects that a container holds for certain.
    pub container_bytes: u64,
}

const MIB: u64 = 1 << 20;

/// Store size, D + P, C; between the rows linear. The row of 10 GiB has a third of the D + P that DESIGN 6 started from: decision 0009 says what each is worth.
const TABLE: [(u64, u64, u64); 5] = [
    (256 * MIB, 5 * MIB, MIB),
    (512 * MIB, 10 * MIB, 2 * MIB),
    (2048 * MIB, 32 * MIB, 4 * MIB),
    (10 * 1024 * MIB, 32 * MIB, 8 * MIB),
    (100 * 1024 * MIB, 384 * MIB, 63 * MIB),
];
/// Open segments.
const OPEN: u64 = 3;
/// Containers that stay free beside what the next checkpoint writes: the cleaner needs them to empty others with, else deletions, each of which rewrites nodes, would take
/// the last container before cleaning has given one back. When cleaning gives nothing any more, a deletion at a time may go deeper.
pub const SPARE: u32 = 5;
/// What is left of them then.
const SPARE_LAST: u32 = 3;
/// Containers that a publication may begin and not fill: nodes, payloads, pages.
const STREAMS: u32 = 3;

impl Budget {
    /// For a store of so many bytes with segments of so many.
    #[must_use]
    pub fn new(size: u64, segment_bytes: u32) -> Self {
        let (dirty_max, pages) = interpolate(size);
        let segment = u64::from(segment_bytes);
        // u = 0.75: a quarter of a victim is freed.
        let reserve = 2 * dirty_max + 4 * pages + (OPEN + 2) * segment;
        // A table row of 40 bytes a block of 4 KiB, header and footer.
        Self { dirty_max, reserve, container_bytes: segment - segment / 64 - 8192 }
    }

    /// Bytes of R that a tier leaves alone.
    #[must_use]
    pub const fn floor(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Writer => self.reserve,
            Tier::Shrinking => self.reserve / 2,
            Tier::Last => 0,
        }
    }

    /// The same in containers.
    #[must_use]
    pub fn floor_containers(&self, tier: Tier) -> u32 {
        u32::try_from(self.floor(tier) / self.container_bytes.max(1)).unwrap_or(u32::MAX)
    }
}

fn interpolate(size: u64) -> (u64, u64) {
    let mut before = (0, 0, 0);
    for row in TABLE {
        if size < row.0 {
            let part = |low: u64, high: u64| low + mul_div(high - low, size - before.0, row.0 - before.0);
            return (part(before.1, row.1), part(before.2, row.2));
        }
        before = row;
    }
    (before.1, before.2)
}

fn mul_div(a: u64, b: u64, c: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) / u128::from(c.max(1))).unwrap_or(u64::MAX)
}

/// What is promised and used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    /// Data bytes of permits not used yet.
    pub data: u64,
    /// Node and payload bytes of permits without a record yet.
    pub pending: u64,
    /// The same of records in the current batch.
    pub current: u64,
    /// The same of the frozen batch.
    pub frozen: u64,
    /// Operations waiting.
    pub waiting: u32,
    /// What they wait for.
    pub wanted: Option<Reason>,
    /// Publications.
    pub publications: u64,
    /// Publications in a row, while space was wanted, that gave nothing.
    pub barren: u32,
    /// Most containers free after a publication, since space became short; 0 while it is not.
    pub best_free: u32,
    /// Records since the last publication that gave nothing: each may have freed something.
    pub records: u64,
    /// Data admitted since the last freeze.
    pub admitted: u64,
    /// Data, nodes and payloads admitted in this mount.
    pub total: u64,
    /// Bytes of all system pages, at the last publication.
    pub pages: u64,
    /// The mark before ENOSPC.
    pub(crate) mark: LastMark,
    /// Delays while the log is more than half full.
    pub(crate) pressure: Pressure,
}

/// Data worth a checkpoint of its own: what that writes is little beside it.
const WORTH_BYTES: u64 = 128 * MIB;

/// Free containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Free.
    pub now: u32,
    /// Emptied by the cleaner: free after the next publication.
    pub coming: u32,
}

/// Why an operation has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Too much is dirty: the next checkpoint takes it.
    Dirty,
    /// Too little is free; so many bytes are available to the tier.
    Space(u64),
}

/// Data as it is allocated: every object starts at a block.
#[must_use]
pub const fn data_charge(bytes: u64) -> u64 {
    bytes.next_multiple_of(8 * UNIT as u64)
}

impl Ledger {
    /// Bytes that a tier may still promise.
    #[must_use]
    pub fn available(&self, budget: &Budget, free: Free, tier: Tier) -> u64 {
        let now = u64::from(free.now) * budget.container_bytes;
        let then = now + u64::from(free.coming) * budget.container_bytes;
        let above = match tier {
            // What the next publication releases counts, as long as what that publication itself needs is there.
            Tier::Writer => {
                then.saturating_sub(budget.floor(tier)).min(now.saturating_sub(budget.floor(Tier::Shrinking)))
            }
            Tier::Shrinking | Tier::Last => now.saturating_sub(budget.floor(tier)),
        };
        above.saturating_sub(self.data)
    }

    /// Takes the bytes if the operation may start.
    pub fn admit(&mut self, budget: &Budget, free: Free, tier: Tier, data: u64, dirty: u64) -> Result<(), Short> {
        let present = self.pending + self.current;
        if dirty > 0 && present > 0 && present + dirty > budget.dirty_max {
            return Err(Short::Dirty);
        }
        let unwritten = present + self.frozen + dirty;
        let spare = self.spare(budget, unwritten);
        if dirty > 0 && tier != Tier::Last && u64::from(free.now) * budget.container_bytes < unwritten + spare {
            self.short(free);
            return Err(Short::Space(0));
        }
        let available = self.available(budget, free, tier);
        // What only names or removes needs no data space, but a writer of names stops with the writers of data.
        let needed = if tier == Tier::Writer { data.max(1) } else { data };
        if needed > available {
            self.short(free);
            return Err(Short::Space(available));
        }
        if tier == Tier::Writer {
            self.best_free = 0;
            self.barren = 0;
        }
        self.data += data;
        self.pending += dirty;
        self.admitted += data;
        self.total += data + dirty;
        Ok(())
    }

    /// Bytes of free containers beside the nodes and payloads that are not written yet: [`SPARE`], or what the pages of one publication may take, if that is more. Something may
    /// have died in every segment, so that is all pages, those written early once more when the cleaner's copies are installed, and what they grow by: an edge that goes takes 32
    /// bytes of a node, and at most 8 of a page. When nothing is given back any more and there is no other record, one operation may go deeper: the pages that it changes are few.
    fn spare(&self, budget: &Budget, unwritten: u64) -> u64 {
        if self.hopeless() {
            return u64::from(SPARE_LAST) * budget.container_bytes;
        }
        let pages = u64::from(STREAMS) * budget.container_bytes + 2 * self.pages + unwritten / 4;
        pages.max(u64::from(SPARE) * budget.container_bytes)
    }

    /// Whether so much is dirty that a checkpoint is due: three quarters of D + P, since the more overwrites meet a node before it is written, the fewer nodes and pages are. The rest is for
    /// operations until it freezes. What has no record yet is not taken by a checkpoint: for it alone one would follow the other.
    #[must_use]
    pub const fn is_batch_full(&self, budget: &Budget) -> bool {
        self.current > 0 && self.current + self.pending > budget.dirty_max / 4 * 3
    }

    /// Whether half of the room is used up, by enough data that a checkpoint is worth it: what died meanwhile comes back before anybody has to wait for it. A store with little room
    /// makes its checkpoints when somebody waits, and so not twice as many of them.
    #[must_use]
    pub fn is_half_used(&self, budget: &Budget, free: Free) -> bool {
        self.admitted >= WORTH_BYTES.max(4 * budget.dirty_max)
            && self.admitted >= self.available(budget, free, Tier::Writer)
    }

    /// Space is wanted from here on.
    fn short(&mut self, free: Free) {
        if self.best_free == 0 {
            self.best_free = free.now.max(1);
        }
    }

    /// Whether waiting for another checkpoint is pointless.
    #[must_use]
    pub const fn hopeless(&self) -> bool {
        self.barren >= 2 && self.records == 0
    }

    /// Whether waiting is pointless from the publication on that ends now, with so many containers free.
    #[must_use]
    pub const fn is_last_chance(&self, free_containers: u32, dropped: bool) -> bool {
        self.barren > 0 && !dropped && free_containers <= self.best_free
    }

    /// A checkpoint was published; `dropped`: it worked on the drop queue.
    pub fn published(&mut self, free_containers: u32, dropped: bool) {
        self.publications += 1;
        self.frozen = 0;
        if dropped || free_containers > self.best_free {
            self.barren = 0;
            self.best_free = if self.best_free == 0 { 0 } else { self.best_free.max(free_containers) };
        } else {
            self.barren = self.barren.saturating_add(1);
            self.records = 0;
        }
        self.wanted = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(now: u32) -> Free {
        Free { now, coming: 0 }
    }

    #[test]
    fn reserve_agrees_with_the_design_table() {
        for (size, segment, dirty, reserve) in
            [(256, 1, 5, 19), (512, 2, 10, 38), (2048, 4, 32, 100), (10240, 4, 32, 116), (102_400, 16, 384, 1100)]
        {
            let budget = Budget::new(size * MIB, u32::try_from(segment * MIB).unwrap());
            assert_eq!(budget.dirty_max, dirty * MIB);
            assert_eq!(budget.reserve.div_ceil(MIB), reserve, "{size} MiB");
        }
    }

    #[test]
    fn tiers_stop_one_after_the_other_and_the_last_never() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        let mut ledger = Ledger::default();
        let none = budget.floor_containers(Tier::Writer);
        assert!(matches!(ledger.admit(&budget, now(none), Tier::Writer, 0, 100), Err(Short::Space(0))));
        assert_eq!(ledger.admit(&budget, now(none), Tier::Shrinking, 4096, 100), Ok(()));
        assert!(ledger.admit(&budget, now(0), Tier::Shrinking, 4096, 100).is_err());
        assert_eq!(ledger.admit(&budget, now(0), Tier::Last, 0, 100), Ok(()));
        assert_eq!(ledger.admit(&budget, now(200), Tier::Writer, 0, budget.dirty_max), Err(Short::Dirty));
        ledger.frozen = ledger.pending;
        ledger.pending = 0;
        ledger.published(200, false);
        assert_eq!(ledger.admit(&budget, now(200), Tier::Writer, 0, budget.dirty_max), Ok(()));
    }

    #[test]
    fn deletions_wait_while_the_next_checkpoint_and_the_cleaner_need_what_is_free() {
        let budget = Budget::new(16 * MIB, 256 << 10);
        let mut ledger = Ledger::default();
        let short = Err(Short::Space(0));
        assert_eq!(ledger.admit(&budget, now(SPARE), Tier::Shrinking, 0, 4096), short);
        assert_eq!(ledger.admit(&budget, now(SPARE), Tier::Last, 0, 4096), Ok(()));
        assert_eq!(ledger.admit(&budget, now(SPARE + 1), Tier::Shrinking, 0, 4096), Ok(()));
        let rest = budget.container_bytes - 4096;
        assert_eq!(ledger.admit(&budget, now(SPARE + 1), Tier::Shrinking, 0, rest), short);
        // Cleaning gave nothing twice: one may go deeper, and then has to wait again.
        ledger = Ledger::default();
        assert_eq!(ledger.admit(&budget, now(SPARE), Tier::Shrinking, 0, 4096), short);
        (0..2).for_each(|_| ledger.published(SPARE, false));
        assert_eq!(ledger.admit(&budget, now(SPARE), Tier::Shrinking, 0, 4096), Ok(()));
        ledger.records += 1;
        assert_eq!(ledger.admit(&budget, now(SPARE), Tier::Shrinking, 0, 4096), short);
    }

    #[test]
    fn what_the_pages_of_all_segments_take_stays_free() {
        let budget = Budget::new(64 * MIB, 256 << 10);
        let mut ledger = Ledger { pages: 4 * budget.container_bytes, ..Ledger::default() };
        let short = Err(Short::Space(0));
        // Eleven containers beside the nodes, and a quarter of these.
        assert_eq!(ledger.admit(&budget, now(11), Tier::Shrinking, 0, 4096), short);
        assert_eq!(ledger.admit(&budget, now(12), Tier::Shrinking, 0, 4096), Ok(()));
        let more = budget.container_bytes * 4 / 5 - 4096;
        assert_eq!(ledger.admit(&budget, now(12), Tier::Shrinking, 0, more), Ok(()));
        assert_eq!(ledger.admit(&budget, now(12), Tier::Shrinking, 0, 8), short);
        // Deletions go on one at a time when nothing is given back any more.
        ledger = Ledger { barren: 2, pages: ledger.pages, ..Ledger::default() };
        assert_eq!(ledger.admit(&budget, now(4), Tier::Shrinking, 0, 4096), Ok(()));
    }

    #[test]
    fn a_checkpoint_is_due_at_half_of_the_room_if_the_data_is_worth_it() {
        let budget = Budget::new(2048 * MIB, 4 << 20);
        let free =
            |mib: u64| now(u32::try_from((budget.reserve + mib * MIB).div_ceil(budget.container_bytes)).unwrap());
        let mut ledger = Ledger::default();
        ledger.admit(&budget, free(1000), Tier::Writer, 400 * MIB, 0).unwrap();
        ledger.data = 0;
        assert!(!ledger.is_half_used(&budget, free(600)));
        assert!(ledger.is_half_used(&budget, free(390)));
        ledger.admitted = 100 * MIB;
        assert!(!ledger.is_half_used(&budget, free(0)), "not worth it");
    }

    #[test]
    fn a_writer_counts_on_what_is_coming_but_not_below_what_its_publication_needs() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        let ledger = Ledger::default();
        let (all, half) = (budget.floor_containers(Tier::Writer), budget.floor_containers(Tier::Shrinking));
        let of = |now, coming| ledger.available(&budget, Free { now, coming }, Tier::Writer);
        assert_eq!(of(all, 0), 0);
        assert!(of(all - 2, 4) > budget.container_bytes);
        assert_eq!(of(all + 3, 0), of(all, 3));
        assert_eq!(of(half, 100), 0);
    }

    #[test]
    fn waiting_ends_after_two_publications_that_gave_nothing() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        let mut ledger = Ledger::default();
        assert!(ledger.admit(&budget, now(5), Tier::Writer, 4096, 0).is_err());
        // What one publication takes and the next gives back is no gain.
        for free in [4, 5] {
            assert!(!ledger.hopeless());
            ledger.published(free, false);
        }
        assert!(ledger.hopeless());
        ledger.records += 1;
        assert!(!ledger.hopeless());
        ledger.published(6, false);
        assert!(!ledger.hopeless());
    }
}
