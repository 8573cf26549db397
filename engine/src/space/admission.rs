//! Admission: who may start an operation, in bytes of data and of what the next checkpoint will write (INV-25, INV-26). Pure accounting; waiting is the engine's.
//!
//! ```text
//! free containers >= R/2 + data promised         R = 2(D + P) + C/(1-u) + (O + 2)S      for writers
//! free and coming containers >= R + data promised                                       coming: emptied by the cleaner, released by the next publication (R: or more, [`Ledger::reserve`])
//! nodes and payloads admitted since a freeze <= max(D + P, twice the largest operation's)     for everybody
//! free containers >= nodes and payloads not written yet + max(5 containers, 3 containers + all pages twice and what they may grow by) + H + data promised     for all but the last tier
//! free containers >= nodes and payloads not written yet + 2 containers + H + data promised     for the last tier
//! ```
//!
//! H: a container for each stream of data but one. Bytes that fit into one container may begin one in each stream, so what is promised takes so many more. Whoever was promised data gets
//! its containers, whatever a publication and the cleaner have taken since.
//!
//! An operation below thousands of directories is charged for all of them, which may be more than D + P: then each publication would hold one such operation, and making n
//! directories in each other would write n^2 / 2 nodes. Since those above are charged once a batch, a batch of twice the largest operation holds as many smaller ones as one of
//! these takes, and what is written stays within a small multiple of what is made. What is free bounds both ([`Ledger::admit`]).
//!
//! R is sized so that two checkpoints' nodes and payloads, their system pages and the open segments fit: so a writer that is let in never takes what a checkpoint or a
//! deletion needs. Later tiers may go deeper into it.

use crate::engine::{LastMark, Pressure};
use crate::sabotage::{self, Rule};
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
    /// H: bytes of the containers that data may begin in all its streams but one.
    pub heats: u64,
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
/// What the last tier leaves beside them: the container of nodes that its publication may begin, and the one of pages. Others leave one more at least, so it begins with one at zero
/// user space, and gets it back from its own publication: that frees what it removes, or the nodes that it rewrote.
const SPARE_OF_LAST_TIER: u32 = 2;
/// An operation of the last tier with no more than this does not wait for them: a mount drops files without a name so, when nobody makes checkpoints yet.
const UNASKED_BYTES: u64 = 1024;
/// Publications that an operation waits for while they give nothing, although others append records.
const WAITS_MAX: u32 = 8;
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
        Self { dirty_max, reserve, container_bytes: segment - segment / 64 - 8192, heats: 0 }
    }

    /// With data in so many streams, one if nothing is said.
    #[must_use]
    pub const fn with_streams(self, streams: u32) -> Self {
        Self { heats: streams.saturating_sub(1) as u64 * self.container_bytes, ..self }
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
    /// The largest permit given since the last freeze, in the same bytes.
    pub largest: u64,
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
    /// Containers free after the last publication.
    pub last_free: u32,
    /// Records that are in no frozen batch: each may free something.
    pub records: u64,
    /// Records of the frozen batch.
    pub frozen_records: u64,
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
        self.available_beside(budget, free, tier, 0)
    }

    /// The same beside an operation that adds so many bytes of nodes and payloads.
    fn available_beside(&self, budget: &Budget, free: Free, tier: Tier, dirty: u64) -> u64 {
        let now = u64::from(free.now) * budget.container_bytes;
        let then = now + u64::from(free.coming) * budget.container_bytes;
        let needed = self.needed(budget, dirty);
        let above = match tier {
            // What the next publication releases counts, as long as what that publication itself needs is there.
            Tier::Writer => then.saturating_sub(self.reserve(budget)).min(now.saturating_sub(needed)),
            Tier::Shrinking => now.saturating_sub(needed),
            Tier::Last => now,
        };
        above.saturating_sub(self.data)
    }

    /// Bytes that writers leave alone: R, or what a batch of D + P and its pages take, if that is more.
    #[must_use]
    pub fn reserve(&self, budget: &Budget) -> u64 {
        budget.floor(Tier::Writer).max(budget.dirty_max + self.beside(budget, budget.dirty_max))
    }

    /// Bytes that everything but the last tier leaves alone: half of R, or what is not written yet, so many bytes of nodes and payloads more, and what a publication of that takes besides.
    #[must_use]
    pub fn needed(&self, budget: &Budget, dirty: u64) -> u64 {
        let unwritten = self.pending + self.current + self.frozen + dirty;
        budget.floor(Tier::Shrinking).max(unwritten + self.spare(budget, unwritten))
    }

    /// Containers that the cleaner works towards: what lets writers in while one batch is written and the next one grows, each of three quarters of D + P, and little more (every percent of
    /// the area that is free is one that lives in victims).
    #[must_use]
    pub fn clean_target(&self, budget: &Budget) -> u32 {
        let containers = |bytes: u64| u32::try_from(bytes.div_ceil(budget.container_bytes.max(1))).unwrap_or(u32::MAX);
        let floor = u32::try_from(self.reserve(budget) / budget.container_bytes.max(1)).unwrap_or(u32::MAX);
        let batches = budget.dirty_max / 2 * 3;
        let flow = containers(batches + self.beside(budget, batches));
        (floor.saturating_add((floor / 8).min(1))).max(flow).saturating_add(2)
    }

    /// Takes the bytes if the operation may start.
    pub fn admit(&mut self, budget: &Budget, free: Free, tier: Tier, data: u64, dirty: u64) -> Result<(), Short> {
        let tier = if sabotage::on(Rule::LastTierAsWriter) { Tier::Writer } else { tier };
        let present = self.pending + self.current;
        if dirty > 0 && present > 0 && present + dirty > self.batch_max(budget, dirty) {
            return Err(Short::Dirty);
        }
        let unwritten = present + self.frozen + dirty;
        let kept = match tier {
            Tier::Last => u64::from(SPARE_OF_LAST_TIER) * budget.container_bytes + self.promised(budget),
            Tier::Writer | Tier::Shrinking => self.spare(budget, unwritten) + self.data + data,
        };
        let is_counted = !sabotage::on(Rule::NodesUncounted);
        let is_asked = is_counted && dirty > if tier == Tier::Last { UNASKED_BYTES } else { 0 };
        if is_asked && u64::from(free.now) * budget.container_bytes < unwritten.saturating_add(kept) {
            self.short(free);
            return Err(Short::Space(0));
        }
        let available = self.available_beside(budget, free, tier, dirty);
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
        self.largest = self.largest.max(dirty);
        self.admitted += data;
        self.total += data + dirty;
        Ok(())
    }

    /// Bytes of free containers beside the nodes and payloads that are not written yet. When nothing is given back any more and there is no other record, one operation may go
    /// deeper: the pages that it changes are few.
    fn spare(&self, budget: &Budget, unwritten: u64) -> u64 {
        if self.hopeless() { u64::from(SPARE_LAST) * budget.container_bytes } else { self.beside(budget, unwritten) }
    }

    /// [`SPARE`], or what the pages of a publication of so many bytes may take, if that is more. Something may have died in every segment, so that is all pages, those written early once
    /// more when the cleaner's copies are installed, and what they grow by: an edge that goes takes 32 bytes of a node, and at most 8 of a page.
    fn beside(&self, budget: &Budget, unwritten: u64) -> u64 {
        let pages = u64::from(STREAMS) * budget.container_bytes + 2 * self.pages + unwritten / 4;
        pages.max(u64::from(SPARE) * budget.container_bytes) + budget.heats
    }

    /// Bytes of containers that promised data may take.
    #[must_use]
    pub const fn promised(&self, budget: &Budget) -> u64 {
        if self.data == 0 { 0 } else { self.data + budget.heats }
    }

    /// A batch ends here; what has no record yet belongs to the next one.
    pub fn freeze(&mut self) {
        self.frozen = std::mem::take(&mut self.current);
        self.frozen_records = std::mem::take(&mut self.records);
        self.largest = 0;
        self.admitted = 0;
    }

    /// What a mount replays is written by its first checkpoint, and so belongs to the current batch: about so many bytes, of which there is no more than was admitted once (INV-25).
    pub fn replayed(&mut self, budget: &Budget, free: Free, records: u64, bytes: u64) {
        let room = u64::from(free.now.saturating_sub(SPARE)) * budget.container_bytes;
        self.current += bytes.min(budget.dirty_max).min(room);
        self.records += records;
    }

    /// What was frozen belongs to the current batch again.
    pub fn abandon(&mut self) {
        self.current += std::mem::take(&mut self.frozen);
        self.records += std::mem::take(&mut self.frozen_records);
    }

    /// Bytes of nodes and payloads that one batch may be admitted with, an operation of so many among them.
    fn batch_max(&self, budget: &Budget, dirty: u64) -> u64 {
        budget.dirty_max.max(2 * self.largest.max(dirty))
    }

    /// Whether so much is dirty that a checkpoint is due: three quarters of D + P, since the more overwrites meet a node before it is written, the fewer nodes and pages are. The rest is for
    /// operations until it freezes. What has no record yet is not taken by a checkpoint: for it alone one would follow the other.
    #[must_use]
    pub fn is_batch_full(&self, budget: &Budget) -> bool {
        self.current > 0 && self.current + self.pending > self.batch_max(budget, 0) / 4 * 3
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

    /// Whether waiting for another checkpoint is pointless: two gave nothing, and no record is left that the next one could gain by.
    #[must_use]
    pub const fn hopeless(&self) -> bool {
        self.barren >= 2 && self.records == 0 && self.frozen_records == 0
    }

    /// Whether an operation that was refused with so much free, and has waited for so many publications, is told so. Fewer free than after the last one may be on their way back: a publication
    /// under way has opened containers, and releases others at its end. Where others go on appending records, some are in no publication yet at any time: the wait has an end all the same.
    #[must_use]
    pub const fn is_refusal(&self, free: Free, waits: u32) -> bool {
        let is_long = waits >= WAITS_MAX && self.barren >= WAITS_MAX;
        (self.hopeless() || is_long) && free.now >= self.last_free
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
        self.frozen_records = 0;
        self.last_free = free_containers;
        if dropped || free_containers > self.best_free {
            self.barren = 0;
            self.best_free = if self.best_free == 0 { 0 } else { self.best_free.max(free_containers) };
        } else {
            self.barren = self.barren.saturating_add(1);
        }
        self.wanted = None;
    }
}

#[cfg(test)]
mod promises;

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
        assert_eq!(ledger.admit(&budget, now(SPARE_OF_LAST_TIER), Tier::Last, 0, 4096), Err(Short::Space(0)));
        assert_eq!(ledger.admit(&budget, now(SPARE_LAST), Tier::Last, 0, 4096), Ok(()));
        assert_eq!(ledger.admit(&budget, now(0), Tier::Last, 0, UNASKED_BYTES), Ok(()), "a mount");
        assert_eq!(ledger.admit(&budget, now(200), Tier::Writer, 0, budget.dirty_max), Ok(()));
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

    /// INV-25: whatever is admitted, whoever asks, and whether anything is given back or not.
    #[test]
    fn no_tier_is_admitted_with_nodes_that_have_no_container() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut admitted = [0_u32; 3];
        for _ in 0..2000 {
            let free = now(u32::try_from(draw(30)).unwrap());
            let mut ledger = Ledger { frozen: draw(4 * MIB), ..Ledger::default() };
            (0..draw(4)).for_each(|_| ledger.published(free.now, false));
            for _ in 0..100 {
                let index = usize::try_from(draw(3)).unwrap();
                let tier = [Tier::Writer, Tier::Shrinking, Tier::Last][index];
                if ledger.admit(&budget, free, tier, 0, UNASKED_BYTES + 1 + draw(600 << 10)).is_ok() {
                    admitted[index] += 1;
                    let unwritten = ledger.frozen + ledger.pending + ledger.current;
                    let room = u64::from(free.now.saturating_sub(SPARE_OF_LAST_TIER)) * budget.container_bytes;
                    assert!(unwritten <= room, "{tier:?}: {unwritten} bytes for {free:?}");
                }
            }
        }
        assert!(admitted.iter().all(|count| *count > 100), "{admitted:?}");
    }

    /// INV-26: at zero user space, so at the least that other tiers leave, the last one goes on.
    #[test]
    fn the_last_tier_has_a_container_at_zero_user_space() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        for free in 3..40 {
            let mut ledger = Ledger { barren: 2, ..Ledger::default() };
            while ledger.admit(&budget, now(free), Tier::Shrinking, 0, 16 << 10).is_ok() {}
            let mut deletions = 0;
            while ledger.admit(&budget, now(free), Tier::Last, 0, 16 << 10).is_ok() {
                deletions += 1;
            }
            let is_limited_by_the_batch = ledger.pending + (16 << 10) > budget.dirty_max;
            assert!(deletions >= 32 || is_limited_by_the_batch, "{deletions} deletions with {free} containers");
        }
    }

    #[test]
    fn a_batch_holds_as_much_again_as_its_largest_operation() {
        let budget = Budget::new(256 * MIB, 1 << 20);
        let path = 2 * budget.dirty_max;
        let mut ledger = Ledger::default();
        assert_eq!(ledger.admit(&budget, now(200), Tier::Writer, 0, path), Ok(()));
        ledger.current = std::mem::take(&mut ledger.pending);
        assert!(!ledger.is_batch_full(&budget), "the operation alone fills it");
        let mut more = 0;
        while ledger.admit(&budget, now(200), Tier::Writer, 0, 4096).is_ok() {
            more += 4096;
        }
        assert_eq!(more, path, "as many small ones as it took itself");
        ledger.current += std::mem::take(&mut ledger.pending);
        assert!(ledger.is_batch_full(&budget));
        ledger.freeze();
        assert_eq!((ledger.frozen, ledger.largest), (2 * path, 0));
        // It is charged where there is room for it, and nowhere else.
        assert_eq!(Ledger::default().admit(&budget, now(12), Tier::Writer, 0, path), Err(Short::Space(0)));
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
    fn the_cleaner_makes_room_for_as_much_as_admission_asks_for() {
        for (size, segment) in [(256, 1), (2048, 4), (10 << 10, 4), (100 << 10, 16), (1 << 20, 16), (10 << 20, 16)] {
            let budget = Budget::new(size * MIB, u32::try_from(segment * MIB).unwrap());
            // Pages of 0.01 to 1.5 % of the store.
            for share in [1, 5, 30, 150] {
                let batch = budget.dirty_max / 4 * 3 - (64 << 10);
                let mut ledger =
                    Ledger { pages: size * MIB / 10_000 * share, current: batch, frozen: batch, ..Ledger::default() };
                let free = now(ledger.clean_target(&budget));
                assert_eq!(ledger.admit(&budget, free, Tier::Writer, 4096, 64 << 10), Ok(()), "{size} MiB, {share}");
                assert_eq!(ledger.admit(&budget, free, Tier::Shrinking, 0, 4096), Ok(()), "{size} MiB, {share}");
                // What is left when writers are refused suffices for a whole batch of deletions.
                let mut full = Ledger { pages: ledger.pages, ..Ledger::default() };
                let floor = u32::try_from(full.reserve(&budget).div_ceil(budget.container_bytes)).unwrap();
                assert_eq!(full.available(&budget, now(floor - 1), Tier::Writer), 0);
                assert_eq!(full.admit(&budget, now(floor), Tier::Shrinking, 0, budget.dirty_max), Ok(()));
            }
        }
    }

    #[test]
    fn what_is_promised_and_the_cleaners_copies_leave_a_publication_its_pages() {
        let budget = Budget::new(10 * 1024 * MIB, 4 << 20);
        let mut ledger = Ledger { pages: 30 * MIB, current: 24 * MIB, ..Ledger::default() };
        let needed = ledger.needed(&budget, 0);
        assert_eq!(needed, 24 * MIB + 3 * budget.container_bytes + 60 * MIB + 6 * MIB, "more than half of R");
        let now = u32::try_from((needed + 20 * MIB).div_ceil(budget.container_bytes)).unwrap();
        let free = Free { now, coming: 20 };
        // Blocks of leaves that are dirty already add no node, but they take containers.
        assert_eq!(ledger.admit(&budget, free, Tier::Writer, 16 * MIB, 0), Ok(()));
        assert!(ledger.admit(&budget, free, Tier::Writer, 16 * MIB, 0).is_err());
        assert!(ledger.admit(&budget, free, Tier::Shrinking, 0, 8 * MIB).is_err(), "promised data counts");
        assert_eq!(ledger.admit(&budget, free, Tier::Shrinking, 0, MIB), Ok(()));
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
        // It came after the freeze of the publication that ends, so the next one says what it gives.
        ledger.published(5, false);
        assert!(!ledger.hopeless());
        ledger.freeze();
        assert!(!ledger.hopeless());
        ledger.abandon();
        assert_eq!((ledger.records, ledger.frozen_records), (1, 0));
        ledger.freeze();
        ledger.published(5, false);
        assert!(ledger.hopeless());
        assert!(ledger.is_refusal(now(5), 0) && !ledger.is_refusal(now(4), 0), "a publication has taken one");
        ledger.records += 1;
        ledger.published(6, false);
        assert!(!ledger.hopeless());
    }

    #[test]
    fn who_waits_beside_others_that_go_on_is_told_in_the_end() {
        let mut ledger = Ledger { best_free: 5, ..Ledger::default() };
        for waits in 0..20 {
            ledger.records += 1;
            assert_eq!(ledger.is_refusal(now(5), waits), waits >= WAITS_MAX, "{waits}");
            ledger.freeze();
            ledger.records += 1;
            ledger.published(5, false);
        }
        assert!(!ledger.is_refusal(now(5), 0), "who comes now waits for what is in no publication yet");
    }
}
