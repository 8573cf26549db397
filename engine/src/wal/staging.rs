//! Records that are appended but in no block yet, and how they are cut into blocks.
//!
//! Shared bytes are framed in order, without gaps. A local record stands at the front of a block, before every shared byte appended after it; it may move ahead
//! of shared bytes appended before it, which is harmless (what it says becomes true earlier). When it does not fit, the block is closed at its place, which wastes
//! less than its own length: so all that waits needs at most `blocks_for(shared + 2 * local)` blocks.

use super::ring::RingGeometry;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::BLOCK_HEADER_BYTES;
use std::collections::VecDeque;

/// What goes into one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub first_lsn: Lsn,
    pub local: Vec<u8>,
    pub shared: Vec<u8>,
    /// Byte in the block of the first record that starts here; 0 = none.
    pub first_record: u32,
}

impl Body {
    /// Byte in the block at which the shared bytes start.
    pub(super) fn shared_offset(&self) -> u32 {
        narrow(BLOCK_HEADER_BYTES.saturating_add(self.local.len()))
    }
    pub(super) fn used_bytes(&self) -> u32 {
        self.shared_offset().saturating_add(narrow(self.shared.len()))
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The waiting records.
#[derive(Debug)]
pub(super) struct Staging {
    /// LSN of the first waiting shared byte.
    framed: Lsn,
    shared: VecDeque<u8>,
    /// Where the waiting records start.
    starts: VecDeque<Lsn>,
    /// Local records, each with the LSN at which it was appended.
    local: VecDeque<(Lsn, Vec<u8>)>,
    local_bytes: u64,
}

impl Staging {
    pub(super) fn new(next: Lsn) -> Self {
        let (shared, starts, local) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { framed: next, shared, starts, local, local_bytes: 0 }
    }

    /// LSN of the next record.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.framed.0.saturating_add(self.shared.len() as u64))
    }
    /// Every byte before this is in a block.
    pub(super) fn framed(&self) -> Lsn {
        self.framed
    }
    pub(super) fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.local.is_empty()
    }
    /// Bytes that count for [`Self::blocks`].
    pub(super) fn bytes(&self) -> u64 {
        (self.shared.len() as u64).saturating_add(self.local_bytes.saturating_mul(2))
    }
    /// Blocks that everything here needs at most.
    pub(super) fn blocks(&self, ring: &RingGeometry) -> u64 {
        ring.blocks_for(self.bytes())
    }

    /// A whole shared record, padded to 8.
    pub(super) fn push_shared(&mut self, record: &[u8]) {
        self.starts.push_back(self.end());
        self.shared.extend(record);
    }
    /// A whole local record, padded to 8.
    pub(super) fn push_local(&mut self, record: Vec<u8>) {
        self.local_bytes = self.local_bytes.saturating_add(record.len() as u64);
        self.local.push_back((self.end(), record));
    }

    /// Takes what fills the next block; empty if nothing waits.
    pub(super) fn take(&mut self, capacity: u32) -> Body {
        let first_lsn = self.framed;
        let mut room = usize::try_from(capacity).unwrap_or(0);
        let mut local = Vec::new();
        let mut limit = u64::MAX;
        while let Some((at, record)) = self.local.front() {
            let behind = at.0.saturating_sub(first_lsn.0);
            let left = room.checked_sub(record.len());
            if left.is_none_or(|left| behind > left as u64) {
                limit = behind;
                break;
            }
            room = left.unwrap_or(0);
            self.local_bytes = self.local_bytes.saturating_sub(record.len() as u64);
            local.extend_from_slice(record);
            self.local.pop_front();
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let count = room.min(self.shared.len()).min(limit);
        let shared: Vec<u8> = self.shared.drain(..count).collect();
        self.framed = Lsn(first_lsn.0.saturating_add(count as u64));
        let mut body = Body { first_lsn, local, shared, first_record: 0 };
        while let Some(start) = self.starts.front().copied().filter(|start| *start < self.framed) {
            if body.first_record == 0 {
                let within = u32::try_from(start.0.saturating_sub(first_lsn.0)).unwrap_or(u32::MAX);
                body.first_record = body.shared_offset().saturating_add(within);
            }
            self.starts.pop_front();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: RingGeometry = RingGeometry { offset: 65536, blocks: 16, block_bytes: 512, seed: [0; 16], volume: 1 };

    fn take_all(staging: &mut Staging) -> Vec<Body> {
        let mut bodies = Vec::new();
        while !staging.is_empty() {
            let body = staging.take(RING.capacity());
            assert!(!body.shared.is_empty() || !body.local.is_empty(), "progress");
            assert!(body.used_bytes() <= 512);
            bodies.push(body);
        }
        bodies
    }

    #[test]
    fn records_run_over_blocks_without_a_gap() {
        let mut staging = Staging::new(Lsn(800));
        staging.push_shared(&[1; 600]);
        staging.push_shared(&[2; 40]);
        let bodies = take_all(&mut staging);
        assert_eq!(
            bodies.iter().map(|b| (b.first_lsn.0, b.shared.len(), b.first_record)).collect::<Vec<_>>(),
            [(800, 432, 80), (1232, 208, 80 + 168)]
        );
    }

    #[test]
    fn a_local_record_stands_before_all_shared_bytes_appended_after_it() {
        for before in (0..1000).step_by(8) {
            let mut staging = Staging::new(Lsn(0));
            staging.push_shared(&vec![1; before]);
            staging.push_local(vec![9; 40]);
            staging.push_shared(&[2; 8]);
            assert!(staging.blocks(&RING) >= 1);
            let needed = staging.blocks(&RING);
            let bodies = take_all(&mut staging);
            assert!(bodies.len() as u64 <= needed, "{before}: {} blocks, promised {needed}", bodies.len());
            let local = bodies.iter().position(|b| !b.local.is_empty()).unwrap();
            let shared = bodies.iter().position(|b| b.shared.contains(&2)).unwrap();
            assert!(local <= shared, "{before}");
            let whole: Vec<u8> = bodies.iter().flat_map(|b| b.shared.clone()).collect();
            assert_eq!(whole.len(), before + 8);
        }
    }
}
