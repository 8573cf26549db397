//! What the engine counts and times: one line a metric, in `groups!` below; the rest follows from it.
//!
//! ```text
//! Engine, Wal, Space, Reader, MeteredDevice --Arc--> Metrics --> snapshot()    samples, for tests and programs
//!                                                           \--> exposition()  OpenMetrics text, for `envoyfs status --metrics`
//! ```
//!
//! Recording is a relaxed atomic addition or two and never waits, so that it may stand under any lock (decision 0013). Latencies are read from the store's
//! own [`Clock`], which is virtual in a simulation. Nothing here outlives the process, and nothing in the engine depends on it.

mod instrument;
#[cfg(test)]
mod tests;

pub use instrument::{Counter, Gauge, Latency, Sample, Timing, Value};

use crate::hlc::Clock;
use instrument::{Instrument, Instruments};
use std::sync::Arc;

/// Declares the groups of metrics: for each a struct with a field a metric, and the walk over all of them.
macro_rules! groups {
    ($($(#[doc = $about:literal])* $group:ident: $Group:ident { $($name:ident: $Kind:ident = $help:literal,)* })*) => {
        $(
            $(#[doc = $about])*
            #[derive(Debug, Default)]
            pub struct $Group { $(#[doc = $help] pub $name: $Kind,)* }
        )*

        /// Every metric of a mounted store, by the part of the engine that it tells about.
        pub struct Metrics {
            clock: Arc<dyn Clock>,
            $($(#[doc = $about])* pub $group: $Group,)*
        }

        impl Metrics {
            /// All at zero; times are read from `clock`.
            #[must_use]
            pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
                Arc::new(Self { clock, $($group: $Group::default(),)* })
            }
        }

        impl Instruments for Metrics {
            fn each(&self, look: &mut dyn FnMut(&'static str, &'static str, &'static str, &dyn Instrument)) {
                $($(look(stringify!($group), stringify!($name), $help, &self.$group.$name);)*)*
            }
        }
    };
}

groups! {
    /// Requests to the device, of whatever part.
    device: DeviceMetrics {
        read_bytes: Counter = "Bytes read.",
        read: Latency = "Time of a read.",
        read_errors: Counter = "Reads that failed.",
        write_bytes: Counter = "Bytes submitted for writing.",
        write: Latency = "Time of a write, from submission to completion.",
        write_errors: Counter = "Writes that failed.",
        flush: Latency = "Time of a flush.",
        flush_errors: Counter = "Flushes that failed.",
        discarded_bytes: Counter = "Bytes discarded.",
    }
    /// The write-ahead log.
    log: LogMetrics {
        records: Counter = "Shared records put into blocks; by groups, how many shared a barrier.",
        record_bytes: Counter = "Bytes of shared records put into blocks.",
        staged_bytes: Gauge = "Bytes of records in memory when blocks were last framed.",
        local_records: Counter = "Local records appended.",
        blocks: Counter = "Blocks framed and submitted.",
        block_bytes: Counter = "Bytes of blocks submitted.",
        watermark_blocks: Counter = "Blocks framed only for their watermark.",
        groups: Counter = "Group commits.",
        group: Latency = "Time of a group commit: blocks, data and flush.",
        group_gather: Latency = "Time that the leader of a group waited for others to come in.",
        group_data: Latency = "Time that a group waited for the data that its records name.",
        group_flush: Latency = "Time of a group's flush.",
        commit: Latency = "Time that a caller of commit waited.",
        barriers: Counter = "Barriers asked for by checkpoints.",
        barrier: Latency = "Time that a barrier took.",
        used_blocks: Gauge = "Ring blocks from the published start to the next block.",
        ring_blocks: Gauge = "Blocks of the ring.",
    }
    /// What is written to segments.
    streams: StreamMetrics {
        data_objects: Counter = "Data objects written.",
        data_bytes: Counter = "Bytes of data objects written.",
        nodes: Counter = "Nodes appended by the client.",
        node_bytes: Counter = "Bytes of nodes appended by the client.",
        payloads: Counter = "Payloads appended by the client.",
        payload_bytes: Counter = "Bytes of payloads appended by the client.",
        own_bytes: Counter = "Bytes of the engine's own objects: roots, batches.",
        page_bytes: Counter = "Bytes of pages of segments.",
        containers_opened: Counter = "Containers taken for a stream.",
        containers_sealed: Counter = "Containers sealed.",
        containers_released: Counter = "Containers that became free.",
        containers_free: Gauge = "Free containers.",
        data_in_flight: Gauge = "Bytes of data with writes under way.",
        data_waits: Latency = "Time that a writer waited because too much data was in flight.",
        relocated: Counter = "Segment writes that failed and were written elsewhere.",
        relocation: Latency = "Time from the failure of such a write until the log tells where its data is.",
    }
    /// Reads of objects.
    reads: ReadMetrics {
        data_bytes: Counter = "Bytes of data read.",
        data: Latency = "Time of a verified data read.",
        node_bytes: Counter = "Bytes of nodes read.",
        node: Latency = "Time of a verified node read from the device.",
        node_in_memory: Counter = "Nodes that were not on the device yet.",
        retried: Counter = "Reads that did not verify and were resolved anew.",
        damaged: Counter = "Reads that did not verify the second time either.",
        page_cache_hits: Counter = "Reads of a segment that was cleaned whose slot map was in memory.",
        page_cache_misses: Counter = "The same, when its page had to be read.",
        cache_evictions: Counter = "Slot maps given up for others.",
        cache_bytes: Gauge = "Bytes of slot maps in memory that could be read again.",
    }
    /// Checkpoints, stage by stage.
    checkpoint: CheckpointMetrics {
        due_for_log: Counter = "Checkpoints due because of the log.",
        due_for_space: Counter = "Checkpoints due because of space.",
        due_idle: Counter = "Checkpoints due because nothing happened.",
        published: Counter = "Checkpoints published.",
        unrecorded: Counter = "Of these, those without a CHECKPOINT record, for lack of room in the log.",
        failed: Counter = "Checkpoints that failed and poisoned the store.",
        total: Latency = "Time of a publication.",
        freeze_hold: Latency = "Time that a freeze held appends.",
        law: Latency = "Counts: the batch law and its application.",
        drops: Latency = "The drop queue.",
        settle: Latency = "Waiting for what closed containers hold, before the cleaner looks at it.",
        clean: Latency = "Choosing victims, and copying what lives in them.",
        data: Latency = "Waiting for data and segment writes.",
        pages: Latency = "System pages.",
        flush: Latency = "The flush before the CHECKPOINT record.",
        record: Latency = "CHECKPOINT record, directory and the barrier over both.",
        superblock: Latency = "Both pairs of superblocks.",
        readers: Latency = "Waiting for readers that entered before.",
        objects: Counter = "Objects new in checkpoints.",
        deltas: Counter = "Count changes in checkpoints.",
        freed: Counter = "Objects freed by checkpoints.",
        number: Gauge = "Number of the published checkpoint.",
    }
    /// Counts, liveness, retained checkpoints, the drop queue, marks.
    state: StateMetrics {
        spills: Counter = "Times that changed pages were written early for lack of memory.",
        loaded_bytes: Gauge = "Bytes of segment pages in memory.",
        loaded_peak: Gauge = "Most bytes of segment pages in memory at any moment.",
        drops: Counter = "Nodes of the drop queue worked off.",
        drops_unreadable: Counter = "Nodes of the drop queue that could not be read.",
        drop_queue: Gauge = "Nodes in the drop queue.",
        retained: Gauge = "Checkpoints retained or being dropped.",
        dropped: Counter = "Retained checkpoints dropped.",
        released: Counter = "Rows of deferred units freed.",
        release: Latency = "Time that a publication took to free what dropped checkpoints had kept.",
        deferred_bytes: Gauge = "Bytes that only retained checkpoints need.",
        marks: Counter = "Marks finished.",
        marks_given_up: Counter = "Marks given up for lack of space.",
        repairs: Counter = "Corrections of marks applied.",
    }
    /// The mount.
    recovery: RecoveryMetrics {
        total: Latency = "Time of a mount.",
        tables: Latency = "Superblock, directory and segment pages.",
        scan: Latency = "The scan of the log.",
        adopt: Latency = "The batch of an unpublished checkpoint.",
        take_over: Latency = "Seals, pages, publication of the cut.",
        records: Counter = "Records accepted by the scan.",
        replayed: Counter = "Records handed to the client.",
        adopted: Counter = "Unpublished checkpoints adopted.",
        moved: Counter = "Objects of records accepted whose data was written elsewhere when its write had failed.",
        placed_behind: Counter = "Containers kept for such data, though they were opened behind where the log was cut.",
        lost: Counter = "Mounts that found records missing that were promised durable.",
    }
    /// The cleaner.
    cleaner: CleanerMetrics {
        runs: Counter = "Runs that chose victims.",
        ahead: Latency = "Time of a portion that was copied between checkpoints.",
        victims: Counter = "Containers cleaned.",
        read_bytes: Counter = "Bytes read from victims.",
        moved_bytes: Counter = "Bytes copied.",
        moved_data_bytes: Counter = "Bytes of data among them; the rest is nodes.",
        emptied: Counter = "Victims of which everything was copied.",
        moved: Counter = "Fragments copied.",
        unreadable: Counter = "Fragments left where they are because the device did not give them.",
        damaged: Counter = "Fragments left where they are because they do not verify.",
        debt: Gauge = "Containers still to be gained.",
        heat_spread: Gauge = "How far the rates differ at which containers of data lose their blocks, in thousandths of e; below 150 writes are not told apart by heat.",
    }
    /// The scrub.
    scrub: ScrubMetrics {
        objects: Counter = "Objects verified.",
        bytes: Counter = "Bytes verified.",
        damaged: Counter = "Objects that do not verify.",
        passes: Counter = "Passes over the whole store.",
        containers: Counter = "Containers verified.",
        verify: Latency = "Time of reading and verifying an object.",
        pass: Latency = "Time of a pass until the end of the store, from where it was begun or taken up, with the pauses of its pace.",
    }
    /// The mark: counts and liveness compared with the trees.
    mark: MarkMetrics {
        nodes: Counter = "Nodes visited.",
        passes: Counter = "Marks that ended.",
        wrong_counts: Counter = "Counts found different.",
        leaked_bytes: Counter = "Live bytes that nothing referenced, given back.",
        total: Latency = "Time of a mark.",
    }
    /// Who may start an operation.
    admission: AdmissionMetrics {
        permits: Counter = "Operations admitted.",
        wait_log: Latency = "Time that an operation waited for room in the log.",
        slowed: Latency = "Time that an operation was delayed because the log was more than half full.",
        wait_dirty: Latency = "Time that an operation waited because too much was dirty.",
        wait_space: Latency = "Time that an operation waited for free space.",
        no_space: Counter = "Operations refused: no space.",
        marks_wanted: Counter = "Marks that were wanted before an operation was refused: no space.",
        too_large: Counter = "Operations refused: larger than the log admits.",
        wait_numbers: Counter = "Numbers asked for beyond the durable bound.",
    }
    /// Pins of clients, which hold back containers that are dead.
    pins: PinMetrics {
        taken: Counter = "Pins taken.",
        broken: Counter = "Pins broken because space was needed.",
        held: Gauge = "Pins held, at the last publication.",
        hold: Latency = "Time that a pin was held.",
        oldest_ms: Gauge = "Age of the oldest pin that counts, at the last publication; milliseconds.",
        containers: Gauge = "Dead containers held back by pins.",
        places: Gauge = "Places of dead units remembered for pins.",
    }
    /// Failures that end writing.
    poison: PoisonMetrics {
        poisoned: Gauge = "1 since a write or flush failed.",
        refused: Counter = "Calls refused since.",
    }
}

impl Metrics {
    /// The store's monotonic clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    /// Starts timing; the time until the guard is dropped, or [`Timing::stop`]ped, goes to `latency`.
    pub fn time<'a>(&'a self, latency: &'a Latency) -> Timing<'a> {
        Timing::new(&*self.clock, latency)
    }

    /// Every metric as it is now. The samples are not of one instant: each is read by itself.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.each(&mut |group, name, _, instrument| samples.push(Sample { group, name, value: instrument.value() }));
        samples
    }

    /// The same as OpenMetrics text; names are `envoyfs_<group>_<name>`, latencies in seconds.
    #[must_use]
    pub fn exposition(&self) -> String {
        instrument::exposition(self)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.snapshot().iter().filter(|sample| !sample.value.is_zero())).finish()
    }
}
