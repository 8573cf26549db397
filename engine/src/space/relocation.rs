//! Data whose write failed: written once more to another place, under the same id, before anybody is told that it is durable (DESIGN 6).
//!
//! ```text
//! write fails (EIO) -> a place in the data stream -> write -> readers find it there -> RELOCATED appended -> the object's ticket completes
//! ```
//! The ticket that a record's commit waits for completes only after RELOCATED was appended, and a group frames the local records appended before the data that it covers was
//! found complete: so RELOCATED is durable with the first record that names the object. The next checkpoint puts the fragment into the segment's slot map; until the object is
//! in a published checkpoint, the container that it was moved to is pinned. A second failure, or one that is not the place's fault, poisons (INV-33).
//!
//! If power fails before the record is durable, the object does not verify, and the log is cut there; after it, recovery reads RELOCATED first.

use super::in_flight::Bytes;
use super::{RowOf, Space, StreamKind};
use crate::StoreError;
use crate::device::{AlignedBuf, Completion, DeviceError, Ticket, Write};
use crate::mutant::{self, Mutant};
use crate::state::{Fragment, Pager};
use crate::store::Result;
use envoyfs_layout::wal::{Relocated, kind};
use envoyfs_layout::{Oid, UNIT};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Containers that a relocation leaves to checkpoints.
const FLOOR_CONTAINERS: u32 = 2;

/// A data object under way.
#[derive(Clone)]
pub(super) struct Placed {
    pub segment: u32,
    pub container: u32,
    pub slot: u32,
    pub stored_bytes: u32,
    pub row: RowOf,
    pub durable: bool,
    /// First byte of it in its buffer.
    pub start: usize,
    /// Written when somebody waits for it.
    pub lazy: bool,
    /// The rest of the buffer follows at once.
    pub more: bool,
}

/// A relocation whose object is not in a published checkpoint yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relocation {
    /// Segment.
    pub segment: u32,
    /// First unit in it.
    pub slot: u32,
    /// Where they are.
    pub to: Fragment,
    /// Segment whose home is that container: pinned for it.
    pub pinned: u32,
}

impl Space {
    /// Starts the write of a data object; the ticket completes when it is where readers look for it.
    pub(super) fn submit_data(self: &Arc<Self>, at: Placed, buffer: Arc<AlignedBuf>) -> Ticket {
        let units = at.stored_bytes / UNIT;
        self.reader.in_flight.insert(at.segment, at.slot, units, Bytes::Buffer(Arc::clone(&buffer), at.start));
        let write = self.write_at(at.container, at.slot, &buffer, &at);
        let write = if at.lazy { write.lazy() } else { write };
        let write = if at.more { write.more() } else { write };
        let first = self.device.submit(write);
        if mutant::on(Mutant::InFlightLeftEarly) {
            self.reader.in_flight.remove(at.segment, at.slot);
        }
        let (ticket, completion) = first.outer_pair();
        let ticket = if at.durable { ticket.durable() } else { ticket };
        let space = Arc::clone(self);
        first.on_done(Box::new(move |result| match result {
            Ok(()) => {
                space.reader.in_flight.remove(at.segment, at.slot);
                completion.complete(Ok(()));
            }
            Err(error) => space.relocate(&at, &buffer, error, completion),
        }));
        self.note_write(&ticket);
        ticket
    }

    fn write_at(&self, container: u32, unit: u32, buffer: &Arc<AlignedBuf>, object: &Placed) -> Write {
        let length = (object.stored_bytes as usize).next_multiple_of(self.shape().block_bytes as usize);
        let write =
            Write::part(self.shape().offset(container, unit), Arc::clone(buffer), object.start..object.start + length);
        if object.durable { write.durable() } else { write }
    }

    fn relocate(self: &Arc<Self>, at: &Placed, buffer: &Arc<AlignedBuf>, error: DeviceError, completion: Completion) {
        let began_ns = self.metrics().now_ns();
        // Only the place may be at fault: a full host, a device that is gone or was poisoned is not helped by another one.
        let elsewhere = matches!(&error, DeviceError::Io { errno, .. } if *errno != libc::ENOSPC);
        if !elsewhere || self.wal.poisoned().is_some() {
            self.wal.poison(&format!("a write to a segment failed: {error}"));
            return completion.complete(Err(error));
        }
        let oid = Oid::new(self.shape().volume, at.segment, u16::try_from(at.slot).unwrap_or(u16::MAX));
        let placed = {
            let mut stream = self.stream(StreamKind::Data);
            let placed = stream.place_moved(self, at.stored_bytes, oid, at.row, FLOOR_CONTAINERS);
            if let Ok((pinned, ..)) = &placed {
                self.pin(*pinned);
            }
            placed
        };
        let (pinned, container, offset_units) = match placed {
            Ok(placed) => placed,
            Err(why) => {
                self.wal.poison(&format!("a write to a segment failed: {error}; no other place for it: {why}"));
                return completion.complete(Err(error));
            }
        };
        tracing::warn!(%error, %oid, container, offset_units, "data is written elsewhere");
        let second = self.device.submit(self.write_at(container, offset_units, buffer, at));
        // Whoever waits for the object's ticket may be the only one to drive the device.
        completion.follow(&second);
        let relocation = Relocation {
            segment: at.segment,
            slot: at.slot,
            to: Fragment { units: at.stored_bytes / UNIT, container, offset_units },
            pinned,
        };
        let space = Arc::clone(self);
        second.on_done(Box::new(move |result| {
            let result = result.map_err(|error| (error.clone(), error.to_string()));
            let done = result.and_then(|()| {
                // Without the record the object is where nobody would look for it after a crash.
                space.relocated(relocation).map_err(|why| (error, why.to_string()))
            });
            match done {
                Ok(()) => {
                    let metrics = space.metrics();
                    metrics.streams.relocation.record_ns(metrics.now_ns().saturating_sub(began_ns));
                    completion.complete(Ok(()));
                }
                Err((error, why)) => {
                    space.wal.poison(&format!("a write to a segment failed twice: {why}"));
                    completion.complete(Err(error));
                }
            }
        }));
    }

    fn relocated(&self, relocation: Relocation) -> Result<()> {
        let Relocation { segment, slot, to, .. } = relocation;
        let body = Relocated {
            number: segment,
            slot,
            units: to.units,
            container: to.container,
            offset_units: to.offset_units,
        };
        self.moved.lock().push(relocation);
        self.reader.relocate(segment, slot, to);
        // Nobody was promised room for it; a ring without any takes none of others'.
        if !self.wal.append_local_spare(kind::RELOCATED, &body.encode())? {
            return Err(StoreError::Refused("the log has no room for where it lies".into()));
        }
        self.reader.in_flight.remove(segment, slot);
        self.metrics().streams.relocated.increment();
        Ok(())
    }

    /// What recovery found in the log, for an object that is not in a published checkpoint.
    pub(crate) fn adopt_relocation(&self, relocation: Relocation) {
        self.pin(relocation.pinned);
        self.moved.lock().push(relocation);
    }

    /// Those of objects that no published checkpoint contains.
    pub(crate) fn relocations(&self) -> Vec<Relocation> {
        self.moved.lock().clone()
    }

    /// These units are in a published checkpoint, or nobody will name them: what was moved of them is held by the state alone, if by anything.
    pub(crate) fn settle_relocations(&self, segment: u32, units: &Range<u32>) {
        let mut moved = self.moved.lock();
        let settled = |relocation: &Relocation| relocation.segment == segment && units.contains(&relocation.slot);
        let gone: Vec<Relocation> = moved.extract_if(.., |relocation| settled(relocation)).collect();
        drop(moved);
        for relocation in gone {
            // What was given up has never been installed.
            self.reader.installed(relocation.segment, relocation.slot);
            self.unpin(relocation.pinned, 1);
        }
    }

    /// Whether anything was relocated that no published checkpoint contains.
    pub(crate) fn has_relocations(&self) -> bool {
        !self.moved.lock().is_empty()
    }
}

/// Puts relocations into the slot maps that the next publication writes; readers find them there from now on. Each once: the cleaner may have moved one on since.
pub(crate) fn install_relocations(pager: &Pager<'_>, relocations: &[Relocation]) -> Result<()> {
    for Relocation { segment, slot, to, .. } in relocations.iter().copied() {
        if pager.reader.relocated(segment, slot).is_none() {
            continue;
        }
        {
            let mut state = pager.state.lock();
            if !state.table().contains_key(&segment) {
                let Some(home) = pager.reader.home(segment) else { continue };
                state.open_segment(segment, home);
            }
        }
        pager.load(&BTreeSet::from([segment]))?;
        let mut state = pager.state.lock();
        let known = state.segment(segment).is_some_and(|segment| segment.moved.contains_key(&slot));
        if !known {
            state.move_units(segment, slot, to).map_err(|error| StoreError::Misuse(error.to_string()))?;
        }
        if let Some(loaded) = state.segment(segment) {
            pager.reader.set_moved(segment, loaded.moved.clone());
        }
        pager.reader.installed(segment, slot);
    }
    Ok(())
}
