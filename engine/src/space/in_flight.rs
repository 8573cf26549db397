//! Bytes that have a place but are not on the device yet: buffered, or with a write under way. Readers look here first.

use crate::device::AlignedBuf;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

const UNIT: usize = envoyfs_layout::UNIT as usize;
const SHARDS: usize = 16;

/// Where the bytes are kept meanwhile.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A node, or data of the checkpoint's builder.
    Shared(Arc<[u8]>),
    /// A buffer being written, from this byte of it on.
    Buffer(Arc<AlignedBuf>, usize),
}

impl Bytes {
    /// The bytes; a buffer may be longer than the object.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Buffer(buffer, start) => buffer.as_slice().get(*start..).unwrap_or_default(),
        }
    }
}

struct Piece {
    units: u32,
    bytes: Bytes,
}

#[derive(Default)]
struct Shard {
    segments: Mutex<HashMap<u32, BTreeMap<u32, Piece>>>,
    /// Pieces in it. Raised before a piece's id is known to anybody, lowered after the device has it: whoever knows an id
    /// and sees zero finds its bytes on the device.
    pieces: AtomicUsize,
}

/// By segment and slot. Slots are never reused (INV-16), so an entry cannot be mistaken for a later one.
pub struct InFlight {
    shards: Vec<Shard>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl InFlight {
    fn shard(&self, segment: u32) -> Option<&Shard> {
        self.shards.get(segment as usize % SHARDS)
    }

    /// From now on `slot..slot + units` reads as these bytes.
    pub fn insert(&self, segment: u32, slot: u32, units: u32, bytes: Bytes) {
        let Some(shard) = self.shard(segment) else { return };
        let mut segments = shard.segments.lock();
        if segments.entry(segment).or_default().insert(slot, Piece { units, bytes }).is_none() {
            shard.pieces.fetch_add(1, Ordering::Release);
        }
    }

    /// The device has them.
    pub fn remove(&self, segment: u32, slot: u32) {
        let Some(shard) = self.shard(segment) else { return };
        let mut segments = shard.segments.lock();
        if let Some(pieces) = segments.get_mut(&segment) {
            if pieces.remove(&slot).is_some() {
                shard.pieces.fetch_sub(1, Ordering::Release);
            }
            if pieces.is_empty() {
                segments.remove(&segment);
            }
        }
    }

    /// Whether something of the segment may be here. Takes no lock.
    #[must_use]
    pub fn may_hold(&self, segment: u32) -> bool {
        self.shard(segment).is_some_and(|shard| shard.pieces.load(Ordering::Acquire) > 0)
    }

    /// A whole object, if it is here.
    #[must_use]
    pub fn whole(&self, segment: u32, slot: u32, units: u32) -> Option<Arc<[u8]>> {
        if !self.may_hold(segment) {
            return None;
        }
        let segments = self.shard(segment)?.segments.lock();
        let piece = segments.get(&segment)?.get(&slot)?;
        match &piece.bytes {
            Bytes::Shared(bytes) if piece.units == units => Some(Arc::clone(bytes)),
            _ => None,
        }
    }

    /// Copies what is here of a range into `into`, which is as long as the range; returns the rest.
    #[must_use]
    pub fn copy(&self, segment: u32, range: &Range<u32>, into: &mut [u8]) -> Vec<Range<u32>> {
        let whole = || vec![range.clone()];
        let Some(shard) = self.shard(segment) else { return whole() };
        if !self.may_hold(segment) {
            return whole();
        }
        let segments = shard.segments.lock();
        let Some(pieces) = segments.get(&segment) else { return whole() };
        let from = pieces.range(..=range.start).next_back().map_or(range.start, |(slot, _)| *slot);
        let (mut missing, mut at) = (Vec::new(), range.start);
        for (slot, piece) in pieces.range(from..range.end) {
            let (start, end) = ((*slot).max(at), (slot + piece.units).min(range.end));
            if start >= end {
                continue;
            }
            let source = bytes_of(start - slot..end - slot);
            let target = bytes_of(start - range.start..end - range.start);
            if let (Some(source), Some(target)) = (piece.bytes.as_slice().get(source), into.get_mut(target)) {
                target.copy_from_slice(source);
                if at < start {
                    missing.push(at..start);
                }
                at = end;
            }
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }
}

/// Units as bytes.
#[must_use]
pub fn bytes_of(units: Range<u32>) -> Range<usize> {
    units.start as usize * UNIT..units.end as usize * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_put_together_from_what_is_in_flight_and_the_rest_is_named() {
        let flight = InFlight::default();
        let shared: Arc<[u8]> = vec![1; 1024].into();
        flight.insert(7, 10, 2, Bytes::Shared(Arc::clone(&shared)));
        let mut buffer = AlignedBuf::zeroed(4096);
        buffer.as_mut_slice().fill(2);
        flight.insert(7, 14, 3, Bytes::Buffer(Arc::new(buffer), 512));
        let mut into = vec![0; 10 * 512];
        assert_eq!(flight.copy(7, &(8..18), &mut into), vec![8..10, 12..14, 17..18]);
        let marks: Vec<u8> = into.chunks(512).map(|unit| unit[0]).collect();
        assert_eq!(marks, vec![0, 0, 1, 1, 0, 0, 2, 2, 2, 0]);
        assert_eq!(flight.copy(7, &(15..16), &mut into[..512]), Vec::<Range<u32>>::new());
        assert!(
            flight.whole(7, 10, 2).is_some() && flight.whole(7, 10, 1).is_none() && flight.whole(8, 10, 2).is_none()
        );
        flight.remove(7, 10);
        flight.remove(7, 14);
        assert_eq!(flight.copy(7, &(8..18), &mut into), vec![8..18]);
    }
}
