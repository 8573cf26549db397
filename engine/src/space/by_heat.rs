//! The streams of data and of survivors, one for each class of heat: which one an object goes to.

use super::heat::{Evidence, Heat, Scale};
use super::stream::Stream;
use super::{Space, Wish};
use crate::store::Result;
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard};
use envoyfs_layout::{Hlc, Oid, UNIT};

/// What survivors are told apart by.
pub(super) fn kinds_of_survivors(heats: &Scale) -> impl Iterator<Item = Heat> {
    let nodes = (heats.all().count() > 1).then_some(Heat::NODES);
    heats.all().chain(nodes)
}

impl Space {
    /// The stream of data of this heat, locked.
    pub fn data(&self, heat: Heat) -> MutexGuard<'_, Stream> {
        self.heats.pick(&self.data, heat).unwrap_or(&self.streams[0]).lock()
    }
    /// The stream of survivors of this heat, locked. Small stores have one for all.
    pub fn survivors(&self, heat: Heat) -> MutexGuard<'_, Stream> {
        let found = if heat == Heat::NODES { self.survivors.last() } else { self.heats.pick(&self.survivors, heat) };
        found.unwrap_or(&self.streams[0]).lock()
    }

    /// Every kind of survivors that has a stream.
    pub fn kinds_of_survivors(&self) -> impl Iterator<Item = Heat> {
        kinds_of_survivors(&self.heats)
    }

    /// How heat is told apart.
    pub const fn heats(&self) -> &Scale {
        &self.heats
    }
    /// The heat of the container that an object lies in, and its age in containers opened since it was written; nothing if its segment is not known.
    pub fn heat_of(&self, oid: Oid) -> Option<(Heat, u64)> {
        let container = self.reader.container_of(oid)?;
        let heat = self.containers.lock().get(container)?.heat;
        let now = u64::from(self.numbers.segment.load(Ordering::Relaxed));
        Some((heat, now.saturating_sub(oid.segment().into())))
    }

    /// The stream that ends where this object ends.
    pub(super) fn stream_behind(&self, after: Option<(Oid, u32)>) -> Option<MutexGuard<'_, Stream>> {
        let (oid, stored_bytes) = after?;
        let (heat, _) = self.heat_of(oid)?;
        let stream = self.data(heat);
        let end = u32::from(oid.slot()) + stored_bytes.div_ceil(UNIT);
        let here = stream.open_container().is_some_and(|open| open.segment == oid.segment() && open.next == end);
        here.then_some(stream)
    }

    /// The cleaner looked at how fast containers of each class lose their blocks. Containers that nobody goes on filling are closed.
    ///
    /// # Errors
    /// What sealing a container says.
    pub fn judge_heat(&self, evidence: &Evidence) -> Result<()> {
        let before = self.alike.load(Ordering::Relaxed);
        let alike = evidence.are_alike(before);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number, for people"
        )]
        self.metrics().cleaner.heat_spread.set(evidence.spread().map_or(0, |spread| (spread * 1000.0) as u64));
        if alike == before {
            return Ok(());
        }
        self.alike.store(alike, Ordering::Relaxed);
        if !alike {
            return Ok(());
        }
        let (write, survivor) = self.heats.of_alike();
        for heat in self.heats.all() {
            if heat != write {
                self.data(heat).seal(self)?;
            }
            if heat != survivor {
                self.survivors(heat).seal(self)?;
            }
        }
        Ok(())
    }

    /// Of what survives cleaning in a container of this heat, in an object of that segment.
    pub fn heat_of_survivor(&self, heat: Heat, segment: u32) -> Heat {
        if self.alike.load(Ordering::Relaxed) {
            return self.heats.of_alike().1;
        }
        let now = self.numbers.segment.load(Ordering::Relaxed);
        self.heats.of_survivor(heat, now.saturating_sub(segment).into())
    }

    pub(super) fn heat_for(&self, wish: &Wish) -> Heat {
        if self.alike.load(Ordering::Relaxed) {
            return self.heats.of_alike().0;
        }
        let before = wish.replaces.and_then(|oid| self.heat_of(oid));
        before.map_or(Heat::UNKNOWN, |(heat, lived)| self.heats.of_successor(heat, lived))
    }

    /// A record named the object: its row says when it was born, if the row is not on the device yet. A hint: whoever finds the stream busy goes on without.
    pub fn name_row(&self, oid: Oid, birth: Hlc) {
        let Some((heat, _)) = self.heat_of(oid) else { return };
        let stream = self.heats.pick(&self.data, heat).and_then(Mutex::try_lock);
        if let Some(mut stream) = stream {
            stream.name_row(oid, birth);
        }
    }
}
