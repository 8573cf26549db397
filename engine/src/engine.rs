//! The engine: [`Store`](crate::store::Store) over a device. Owns the table of objects that no checkpoint contains yet, and the order in which the parts are called.
//!
//! ```text
//! reserve -> append_data -> append -> commit          an operation        (space, wal)
//! freeze -> append_node* -> publish                   a checkpoint        (checkpoint.rs)
//! open                                                a mount             (recovery.rs)
//! ```
//!
//! Lock order: published, cleaning, batch, held, state, stream, containers, ledger, wal; `mark` before the state. None is held while waiting but by the checkpoint: `published` and `cleaning`, and for readers, briefly, `held`. If power fails, nothing in
//! memory matters.

mod admission;
mod append;
mod batch;
mod counters;
mod last_mark;
mod observe;
mod pressure;
mod replica;
mod store;

pub(crate) use admission::Admission;
pub(crate) use batch::{Batches, Objects};
pub(crate) use counters::Counters;
pub(crate) use last_mark::LastMark;
pub(crate) use pressure::Pressure;
pub use replica::{FreeAndReserve, LiveObjects};

use crate::StoreError;
use crate::checkpoint::HeldBack;
use crate::cleaner::Cleaning;
use crate::device::Device;
use crate::history::HistoryPolicy;
use crate::hlc::{Clock, SystemClock};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::space::admission::{Budget, Free};
use crate::space::{Reader, Shape, Space};
use crate::state::State;
use crate::store::{Replayed, Result, Roots};
use crate::superblock::PublishedTable;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::unsaved::Unsaved;
use crate::wal::{Committer, Wal};
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Lsn, Oid, Reference};
use std::sync::Arc;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Write nothing.
    pub read_only: bool,
    /// Start the committer thread. Without it, nothing ever waits for another thread: calls that would answer `WouldWait`.
    pub threads: bool,
    /// Go on writing although records that were promised durable are damaged (`-o accept_loss` of a mount).
    pub accept_loss: bool,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Bounds of memory and work.
    pub settings: Settings,
}

impl Default for Options {
    /// To read and write, with threads and the machine's clocks.
    fn default() -> Self {
        let clock = Arc::new(SystemClock::new());
        Self { read_only: false, threads: true, accept_loss: false, clock, settings: Settings::default() }
    }
}

/// What the superblock that rules names.
pub(crate) struct Published {
    pub(crate) superblock: Superblock,
    pub(crate) entry: VolumeEntry,
    pub(crate) table: PublishedTable,
    /// The client's counted references in it.
    pub(crate) roots: Vec<Reference>,
}

/// What only a writable mount has.
pub(crate) struct Writer {
    pub(crate) wal: Arc<Wal>,
    pub(crate) space: Arc<Space>,
    pub(crate) batches: Mutex<Batches>,
    pub(crate) published: Mutex<Published>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    pub(crate) cleaning: Cleaning,
    /// Dead containers that are not reused yet.
    pub(crate) held: Mutex<HeldBack>,
    /// The published checkpoint's freeze LSN and number, to be looked at without waiting for a checkpoint under way.
    pub(crate) freeze: AtomicU64,
    pub(crate) number: AtomicU64,
    /// Data objects named since the published freeze, by pieces.
    pub(crate) unpublished: AtomicU64,
    /// From a freeze to the end of its publication.
    pub(crate) in_flight: AtomicBool,
    /// A checkpoint is due: the log that the mount found is long, or [`Writer::unserved`].
    pub(crate) overdue: AtomicBool,
    /// The mount's own entry in the list of cuts was the last that fits: nothing of a client is admitted before a checkpoint has been published, or the next crash finds
    /// no room for its cut (INV-38).
    pub(crate) unserved: AtomicBool,
    /// Something had more than one reference in this mount.
    pub(crate) was_shared: AtomicBool,
    idle: Mutex<(Lsn, u64)>,
    committer: Mutex<Option<Committer>>,
}

/// See the module.
pub struct Engine {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    pub(crate) shape: Shape,
    pub(crate) reader: Arc<Reader>,
    pub(crate) state: Mutex<State>,
    pub(crate) history_policy: Mutex<HistoryPolicy>,
    pub(crate) mark: Mutex<crate::mark::Mark>,
    /// A page of the drop queue or of deferred units cannot be read: no checkpoint is made just to work on them.
    pub(crate) stalled: AtomicBool,
    pub(crate) writer: Option<Writer>,
    pub(crate) read_only: String,
    pub(crate) recovered: Roots,
    pub(crate) replay: Mutex<Vec<Replayed>>,
    /// What the client appends in a read-only mount.
    pub(crate) unsaved: Unsaved,
    /// End of the log, of a read-only mount.
    pub(crate) end: Lsn,
    /// Of a read-only mount.
    pub(crate) checkpoint: u64,
    /// Containers, of a read-only mount.
    pub(crate) mounted: Vec<crate::space::Container>,
    /// Called when a checkpoint has installed the cleaner's copies, before it does anything else.
    #[cfg(test)]
    pub(crate) after_install: AfterInstall,
}

/// See [`Engine::after_install`].
#[cfg(test)]
pub(crate) type AfterInstall = Mutex<Option<Box<dyn Fn(&Engine) + Send>>>;

impl Writer {
    pub(crate) fn new(
        wal: Arc<Wal>,
        space: Arc<Space>,
        batches: Batches,
        published: Published,
        counters: Counters,
        budget: Budget,
        threads: bool,
    ) -> Result<Self> {
        let committer = if threads {
            let failed =
                |error: std::io::Error| StoreError::Refused(format!("cannot start the committer thread: {error}"));
            Some(Committer::start(&wal).map_err(failed)?)
        } else {
            None
        };
        let admission = Admission { budget, ledger: Mutex::default(), changed: Condvar::new() };
        Ok(Self {
            freeze: AtomicU64::new(published.entry.checkpoint.freeze.0),
            number: AtomicU64::new(published.entry.checkpoint.number),
            unpublished: AtomicU64::new(0),
            in_flight: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            unserved: AtomicBool::new(false),
            was_shared: AtomicBool::new(false),
            idle: Mutex::new((wal.end(), 0)),
            wal,
            space,
            batches: Mutex::new(batches),
            published: Mutex::new(published),
            admission: Arc::new(admission),
            counters,
            cleaning: Cleaning::default(),
            held: Mutex::default(),
            committer: Mutex::new(committer),
        })
    }

    /// Containers that are free, and that the cleaner has emptied.
    pub(crate) fn free(&self) -> Free {
        Free { now: self.space.free_containers(), coming: self.cleaning.coming() }
    }
}

impl Engine {
    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().ok_or_else(|| StoreError::ReadOnly { why: self.read_only.clone() })
    }

    /// Keeps an object of a read-only mount.
    fn keep(&self, bytes: Arc<[u8]>) -> Result<Oid> {
        self.unsaved
            .keep(self.shape.volume, bytes)
            .ok_or_else(|| StoreError::ReadOnly { why: "the log makes more objects than memory can hold".into() })
    }

    /// Does what is due in a store without threads: group commits, the barrier of every second, watermarks. Costs two looks at the clock if nothing is.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Poisoned`]; what a write or a flush meets, which poisons.
    pub fn pump(&self) -> Result<()> {
        self.writer()?.wal.pump()
    }

    /// Why the store is read-only; empty if it is not.
    #[must_use]
    pub fn read_only(&self) -> &str {
        &self.read_only
    }

    /// Ends the mount: everything appended is durable and a watermark says so. The client makes its last checkpoint before; afterwards nothing is appended or acknowledged.
    ///
    /// # Errors
    /// What a last group commit or a write meets; the store is poisoned then, and the next mount replays.
    pub fn close(&self) -> Result<()> {
        let Some(writer) = &self.writer else {
            self.tell_what_is_kept();
            return Ok(());
        };
        let closed = writer.wal.commit(writer.wal.end());
        drop(writer.committer.lock().take());
        closed?;
        self.tell_what_is_kept();
        // A header or a table may wait for company that does not come any more.
        writer.space.wait_writes()?;
        writer.wal.close(|| {
            let superblock = writer.published.lock().superblock.sequence;
            let segment = writer.space.numbers.segment.load(Ordering::SeqCst);
            (superblock, writer.counters.next(segment.into()))
        })
    }

    fn tell_what_is_kept(&self) {
        for what in self.check_idle() {
            tracing::error!(what, "at the end of the mount something was not given back");
        }
    }

    /// Fills `into` from an object that only a read-only mount's memory holds; false if there is none.
    pub(crate) fn read_unsaved(&self, oid: Oid, first: u32, into: &mut [u8]) -> bool {
        self.writer.is_none() && self.unsaved.read(oid, first, into)
    }
}
