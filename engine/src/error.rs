//! What the engine tells its client.

use crate::device::DeviceError;
use envoyfs_layout::{ClientTag, LayoutError, Oid};
use thiserror::Error;

/// A failed engine call: what, where, expected, found.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// No space for this tier, also after everything that a checkpoint can give back.
    #[error("no space left on the store ({available} bytes available, {needed} needed)")]
    NoSpace {
        /// Bytes available to the tier.
        available: u64,
        /// Bytes asked for.
        needed: u64,
    },
    /// A write or a flush failed before: the store is read-only until it is mounted again.
    #[error("the store takes no more writes: {why}")]
    Poisoned {
        /// First failure.
        why: String,
    },
    /// The store was opened read-only.
    #[error("the store is read-only: {why}")]
    ReadOnly {
        /// Why.
        why: String,
    },
    /// Bytes of an object do not verify.
    #[error("object {oid}: {what} at device offset {offset}")]
    Damaged {
        /// The object.
        oid: Oid,
        /// Bytes from the device's start.
        offset: u64,
        /// What is wrong.
        what: LayoutError,
    },
    /// The device does not give bytes of an object.
    #[error("object {oid}: {source}")]
    Unreadable {
        /// The object.
        oid: Oid,
        /// What the device said, with the place.
        source: DeviceError,
    },
    /// No such object, or a range outside it.
    #[error("object {oid}: {what}")]
    BadReference {
        /// The object.
        oid: Oid,
        /// What is wrong.
        what: &'static str,
    },
    /// A structure of the store itself is damaged or foreign.
    #[error("{structure} at device offset {offset}: {source}")]
    Structure {
        /// Which.
        structure: &'static str,
        /// Bytes from the device's start.
        offset: u64,
        /// What is wrong.
        source: LayoutError,
    },
    /// The page that says what is live in a segment cannot be read: `fsck.envoyfs` computes it anew.
    #[error(
        "the page of segment {segment} (container {container}, unit {unit}) cannot be read; unmount the store and run fsck.envoyfs -fp: {source}"
    )]
    SegmentPage {
        /// The segment.
        segment: u32,
        /// Container of the page.
        container: u32,
        /// Unit of the page in it.
        unit: u32,
        /// Why.
        source: Box<StoreError>,
    },
    /// The roots are another client's: whoever took them for its own would lose what they lead to.
    #[error(
        "the store belongs to {found}, not to {asked}: open it with the program that made it; to use its space for something else, make a new store over it, which loses what it holds"
    )]
    OtherClient {
        /// Whose it is.
        found: ClientTag,
        /// Who asked.
        asked: ClientTag,
    },
    /// The store cannot be opened as asked; says what to do.
    #[error("{0}")]
    Refused(String),
    /// All numbers of a kind were handed out in the life of the store; none is given twice (INV-16).
    #[error(
        "the store has used up its {what}: it can be read, but takes nothing more that needs one; copy what it holds to a new store"
    )]
    UsedUp {
        /// Which.
        what: &'static str,
    },
    /// A stamp from outside is further ahead of this host's clock than any clock may be (INV-01).
    #[error(
        "a time from outside is {ahead_ms} ms ahead of this host's clock, and {limit_ms} ms at most are believed: one of the two clocks is wrong"
    )]
    ClockAhead {
        /// By how much.
        ahead_ms: u64,
        /// By how much it may be.
        limit_ms: u64,
    },
    /// A pin was broken: space was so short that what it held back was needed (decision 0016). Take another one, and look up anew what you want to read.
    #[error("the pin was broken: the store is full and needs what it held back; start again with a new one")]
    PinBroken,
    /// The call does not wait, or cannot since the store runs without threads, and needs a checkpoint: make one, or see that somebody does, then ask again.
    #[error("{what} has to wait for a checkpoint")]
    WouldWait {
        /// What waits.
        what: &'static str,
    },
    /// The client broke a rule of the interface; going on would lose data.
    #[error("{0}")]
    Misuse(String),
    /// A request larger than the limits.
    #[error("{what} of {bytes} bytes is larger than {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Size asked for.
        bytes: u64,
        /// Largest.
        limit: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
