//! Virtual time: rates follow from the model, and the same requests take the same time.

use super::*;
use crate::hlc::Clock as _;

const MODEL: LatencyModel = LatencyModel {
    channels: 4,
    chunk_bytes: 64 << 10,
    read_ns: 90_000,
    write_ns: 10_000,
    bytes_per_s: 4096 * 4 * 100_000,
    flush_ns: 500_000,
    flush_bytes_per_s: 4_096_000_000,
    discard_ns: 7,
};

fn timed() -> (SimulatedDevice, Arc<VirtualClock>) {
    let clock = VirtualClock::new(0);
    (SimulatedDevice::new(1 << 30, 512, 1).timed(MODEL, &clock), clock)
}

/// 10 us for the transfer of 4 KiB on one of four channels, 90 us for each read.
#[test]
fn reads_one_by_one_take_their_time_and_many_share_the_channels() {
    let (device, clock) = timed();
    for _ in 0..10 {
        block(&device, 0).unwrap();
    }
    assert_eq!(clock.now_ns(), 10 * 100_000);
    let mut reads = device.own_reads(32).unwrap().unwrap();
    let begin = clock.now_ns();
    (0..32).for_each(|tag| reads.submit(tag, tag * BLOCK, AlignedBuf::zeroed(4096)));
    let mut done = Vec::new();
    reads.wait(1, &mut done);
    // One from each channel.
    assert_eq!((done.len(), clock.now_ns() - begin), (4, 100_000));
    reads.wait(28, &mut done);
    assert_eq!((done.len(), clock.now_ns() - begin), (32, 800_000));
    assert_eq!(clock.monotonic_ns(), clock.now_ns());
}

#[test]
fn a_large_request_is_striped_over_the_channels() {
    let (device, clock) = timed();
    let mut buffer = AlignedBuf::zeroed(1 << 20);
    device.read(0, &mut buffer).unwrap();
    // 16 chunks on 4 channels, each 90 us and 16 times 10 us.
    assert_eq!(clock.now_ns(), 4 * 250_000);
}

#[test]
fn writes_complete_when_their_time_has_come_and_a_flush_covers_only_those() {
    let (device, clock) = timed();
    device.note_served();
    let first = device.submit(Write::whole(0, fill(4096, 1)));
    assert!(!first.is_done());
    assert_eq!(block(&device, BLOCK).unwrap(), [0; 4096]);
    // The read took longer than the write: it has completed.
    assert!(first.is_done());
    let late = device.submit(Write::whole(2 * BLOCK, fill(4096, 2)));
    let before = clock.now_ns();
    device.flush().unwrap();
    assert_eq!(clock.now_ns() - before, 501_000);
    assert!(late.is_done());
    let after = device.durable_image();
    let mut bytes = [0; 1];
    after.read(0, &mut bytes);
    assert_eq!(bytes, [1]);
    after.read(2 * BLOCK, &mut bytes);
    assert_eq!(bytes, [0]);
    let waited = device.submit(Write::whole(0, fill(4096, 3)));
    let before = clock.now_ns();
    waited.wait().unwrap();
    assert_eq!(clock.now_ns() - before, 20_000);
    let served = device.take_served();
    assert_eq!(served.len(), 5);
    assert_eq!((served[0].kind, served[0].submitted_ns, served[0].completed_ns), (RequestKind::Write, 0, 20_000));
    assert!(device.take_served().is_empty());
}

#[test]
fn work_aside_does_not_move_the_time_of_others_but_takes_the_channels() {
    let (device, clock) = timed();
    let ((), end) = clock.aside(|| {
        for index in 0..100 {
            let mut buffer = AlignedBuf::zeroed(1 << 20);
            device.read(index << 20, &mut buffer).unwrap();
        }
    });
    assert_eq!((end, clock.now_ns()), (100_000_000, 0));
    // The others wait for a gap; there is none before.
    block(&device, 0).unwrap();
    assert_eq!(clock.now_ns(), 100_100_000);
    // Between requests that leave channels free there is one.
    let (_, clock) = (device, clock);
    let device = SimulatedDevice::new(1 << 30, 512, 1).timed(MODEL, &clock);
    let begin = clock.now_ns();
    let (_, end) = clock.aside(|| (0..100).for_each(|_| drop(block(&device, 0).unwrap())));
    assert_eq!(end - begin, 10_000_000);
    block(&device, 0).unwrap();
    assert_eq!(clock.now_ns() - begin, 100_000);
}

/// A full device of 10 GiB, with its cache flushed now and then, takes some 20 bytes a block.
#[test]
fn ten_gib_of_simple_blocks_fit_into_memory() {
    let device = SimulatedDevice::new(10 << 30, 4096, 1);
    let mut buffer = AlignedBuf::zeroed(4 << 20);
    for (number, part) in (0_u64..).zip(buffer.as_mut_slice().chunks_mut(4096)) {
        part.chunks_mut(8).for_each(|word| word.copy_from_slice(&(number * 77 + 1).to_le_bytes()));
    }
    let buffer = Arc::new(buffer);
    for index in 0..(10 << 30) / (4 << 20) {
        device.submit(Write::whole(index * (4 << 20), Arc::clone(&buffer))).wait().unwrap();
        if index % 8 == 0 {
            device.flush().unwrap();
        }
    }
    device.flush().unwrap();
    let blocks = (10 << 30) / 4096;
    let memory = device.image().memory() + device.durable_image().memory();
    assert!(memory < 20 * blocks, "{memory}");
    assert_eq!(block(&device, (10 << 30) - 4096).unwrap()[..2], (1023_u64 * 77 + 1).to_le_bytes()[..2]);
}
