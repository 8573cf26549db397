//! How much of the ring a recovery reads.

use super::harness::{BLOCK, DeviceJudge, make_of, mount};
use crate::device::{AlignedBuf, Device, Write};
use crate::wal::RingGeometry;
use crate::wal::recovery::scan;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::BlockHeader;

const RING_BLOCKS: u64 = (160 << 20) / BLOCK as u64;
const CAPACITY: u64 = BLOCK as u64 - 80;

#[test]
fn behind_the_end_of_a_ring_that_has_wrapped_no_more_is_read_than_could_be_un_flushed() {
    let mounted = mount(make_of(200 << 20, RING_BLOCKS, 5)).unwrap();
    let mut entry = mounted.directory.entry.clone();
    let ring = RingGeometry::of(&mounted.superblock, &entry);
    // What the mount that is still running left a lap ago: blocks of its generation, everywhere.
    for first in (1..=RING_BLOCKS).step_by(2048) {
        let mut buf = AlignedBuf::zeroed(2048 * BLOCK as usize);
        for (sequence, block) in (first..).zip(buf.as_mut_slice().chunks_exact_mut(BLOCK as usize)) {
            let first_lsn = Lsn(sequence * CAPACITY);
            let header = BlockHeader {
                used_bytes: BLOCK,
                local_bytes: 0,
                volume: 1,
                sequence,
                first_lsn,
                writer_epoch: 1,
                generation: entry.ring_generation,
                durable: first_lsn,
                committed: first_lsn,
                stream_hash: 0,
                first_record: 0,
            };
            header.seal(block, &ring.seed, ring.position(sequence));
            // The last of them lie at the start of the ring.
            let lies_behind = ring.ring_block(sequence) < ring.ring_block(first);
            if lies_behind {
                let mut one = AlignedBuf::zeroed(BLOCK as usize);
                one.as_mut_slice().copy_from_slice(block);
                mounted.device.submit(Write::whole(ring.position(sequence), one)).wait().unwrap();
            }
        }
        let fits = (RING_BLOCKS - ring.ring_block(first)).min(2048);
        buf.set_len(usize::try_from(fits * u64::from(BLOCK)).unwrap());
        mounted.device.submit(Write::whole(ring.position(first), buf)).wait().unwrap();
    }
    entry.start.sequence = RING_BLOCKS + 100;
    entry.checkpoint.freeze = Lsn(entry.start.sequence * CAPACITY);
    let before = mounted.device.counters().bytes_read;
    let mut judge = DeviceJudge { device: &mounted.device, verified: 0 };
    let found = scan(&mounted.device, &ring, &entry, &mut judge).unwrap();
    assert_eq!((found.corrupt, found.cut.lsn), (None, entry.checkpoint.freeze));
    let read = mounted.device.counters().bytes_read - before;
    assert!(read <= (64 << 20) + (2 << 20), "{} MiB", read >> 20);
}
