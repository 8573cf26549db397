//! The generator against the simulation and a real file.

use super::super::random::Random;
use super::super::{DeviceImage, Fault, OpenMode, SimulatedDevice, UringDevice};
use super::*;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;

fn fill(mark: u8) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(4096);
    buffer.as_mut_slice().fill(mark);
    buffer
}

fn write<D: Device>(device: &RecordingDevice<D>, block: u64, mark: u8) -> Ticket {
    device.submit(Write::whole(block * BLOCK, fill(mark)))
}

fn sector(image: &DeviceImage, offset: u64) -> u8 {
    let mut bytes = [0; 512];
    image.read(offset, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn inside a sector");
    bytes[0]
}

/// Writes rising marks to random blocks, with flushes between; returns for each flush the log position after its
/// end and the mark of every block that it made durable.
fn run<D: Device>(device: &RecordingDevice<D>, seed: u64) -> Vec<(usize, Vec<u8>)> {
    let mut random = Random::new(seed);
    let mut newest = vec![0_u8; 16];
    let mut acknowledged = Vec::new();
    for mark in 1..=200_u8 {
        let block = random.below(16);
        write(device, block as u64, mark).wait().unwrap();
        newest[block] = mark;
        if random.chance(40) {
            device.flush().unwrap();
            acknowledged.push((device.recording().len(), newest.clone()));
        }
    }
    acknowledged
}

/// Every sector of every image holds what the last flush before the cut covered, or something newer.
fn check_no_flushed_write_is_lost(images: &mut CrashImages, acknowledged: &[(usize, Vec<u8>)]) -> usize {
    let mut lost = 0;
    let all: Vec<_> = images.every(1, 77).collect();
    for (position, seed, image) in all {
        let floor = acknowledged.iter().rev().find(|(at, _)| *at <= position);
        for block in 0..BLOCKS {
            let floor = floor.map_or(0, |(_, marks)| marks[usize::try_from(block).unwrap()]);
            for part in 0..8 {
                let mark = sector(&image, block * BLOCK + part * 512);
                assert!(mark >= floor, "cut {position}, seed {seed}, block {block}: {mark} is older than {floor}");
            }
        }
        lost += usize::from(image == images_floor(acknowledged, position));
    }
    lost
}

fn images_floor(acknowledged: &[(usize, Vec<u8>)], position: usize) -> DeviceImage {
    let mut image = DeviceImage::new(BLOCKS * BLOCK);
    if let Some((_, marks)) = acknowledged.iter().rev().find(|(at, _)| *at <= position) {
        for (block, mark) in (0..).zip(marks) {
            if *mark != 0 {
                image.write(block * BLOCK, &[*mark; 4096]);
            }
        }
    }
    image
}

#[test]
fn no_cut_loses_a_flushed_write_and_some_lose_all_others() {
    for seed in 0..10 {
        let device = RecordingDevice::new(SimulatedDevice::new(BLOCKS * BLOCK, 512, seed));
        let acknowledged = run(&device, seed);
        assert!(acknowledged.len() > 5);
        let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
        let lost = check_no_flushed_write_is_lost(&mut images, &acknowledged);
        assert!(lost > images.positions() / 20, "seed {seed}: {lost}");
        // At the very end every survivor is allowed, so over many seeds the whole image must occur too.
        let complete = (0..50).filter(|seed| images.at(usize::MAX, *seed) == device.inner().image()).count();
        assert!(complete > 0);
    }
}

#[test]
fn a_real_run_through_a_spill_file_gives_the_same_promise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(BLOCKS * BLOCK).unwrap();
    let device = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
    let device = RecordingDevice::with_spill_file(device, &dir.path().join("log")).unwrap();
    let acknowledged = run(&device, 3);
    assert_eq!(device.recording().bytes(), 200 * 4096);
    let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
    check_no_flushed_write_is_lost(&mut images, &acknowledged);
    let end = images.positions();
    let complete =
        (0..50).map(|seed| images.at(end, seed)).find(|image| image.to_bytes() == std::fs::read(&path).unwrap());
    assert!(complete.is_some());
}

#[test]
fn concurrent_writers_and_flushers_are_logged_soundly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(BLOCKS * BLOCK).unwrap();
    let device = RecordingDevice::new(UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap());
    // Every thread owns blocks, and notes (log length after its flush, block, mark).
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (device, acknowledged) = (&device, &acknowledged);
            scope.spawn(move || {
                for mark in 1..=60_u8 {
                    let block = thread * 4 + u64::from(mark % 4);
                    write(device, block, mark).wait().unwrap();
                    if mark % 5 == 0 {
                        device.flush().unwrap();
                        acknowledged.lock().push((device.recording().len(), block, mark));
                    }
                }
            });
        }
    });
    let acknowledged = acknowledged.into_inner();
    let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
    for (position, seed, image) in images.every(3, 1) {
        for (_, block, mark) in acknowledged.iter().filter(|(at, ..)| *at <= position) {
            for part in 0..8 {
                assert!(sector(&image, block * BLOCK + part * 512) >= *mark, "cut {position}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_write_under_way_when_the_flush_began_is_at_risk() {
    let device = RecordingDevice::new(SimulatedDevice::new(BLOCKS * BLOCK, 512, 0).slow(true));
    let ticket = write(&device, 0, 1);
    device.flush().unwrap();
    assert!(ticket.is_done());
    let base = DeviceImage::new(BLOCKS * BLOCK);
    let mut images = CrashImages::new(base.clone(), &device.recording()).unwrap();
    let end = images.positions();
    assert_eq!(images.durable_at(end), base);
    device.flush().unwrap();
    let mut images = CrashImages::new(base, &device.recording()).unwrap();
    let end = images.positions();
    assert_eq!(images.at(end, 5), device.inner().image());
    // Between begin and end of the second flush it is not durable yet.
    assert!((0..50).any(|seed| images.at(end - 1, seed) != device.inner().image()));
}

#[test]
fn after_a_failed_flush_nothing_it_covered_is_certain_but_later_writes_win() {
    let device = RecordingDevice::new(SimulatedDevice::new(BLOCKS * BLOCK, 512, 0));
    device.inner().inject(Fault::FailFlush);
    write(&device, 0, 1).wait().unwrap();
    write(&device, 1, 1).wait().unwrap();
    device.flush().unwrap_err();
    write(&device, 1, 2).wait().unwrap();
    device.flush().unwrap();
    let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
    let end = images.positions();
    let all: Vec<DeviceImage> = (0..100).map(|seed| images.at(end, seed)).collect();
    assert!(all.iter().all(|image| sector(image, BLOCK) == 2));
    assert!(all.iter().any(|image| sector(image, 0) == 0) && all.iter().any(|image| sector(image, 0) == 1));
}

#[test]
fn discards_are_recorded_and_cuts_are_repeatable() {
    let device = RecordingDevice::new(SimulatedDevice::new(BLOCKS * BLOCK, 512, 0));
    write(&device, 0, 1).wait().unwrap();
    device.flush().unwrap();
    let before = device.recording().len();
    device.discard(0, BLOCK).unwrap();
    device.flush().unwrap();
    let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
    let end = images.positions();
    assert_eq!(images.at(end, 0).to_bytes(), vec![0; 16 * 4096]);
    assert_eq!(sector(&images.at(before, 0), 0), 1);
    let forward: Vec<_> = images.every(1, 9).collect();
    for (position, seed, image) in forward.iter().rev() {
        assert_eq!(images.at(*position, *seed), *image);
    }
}

/// As `run`, with durable writes among the others: each is acknowledged by itself.
#[test]
fn no_cut_loses_a_durable_write_and_they_save_no_other() {
    for seed in 0..20 {
        let device = RecordingDevice::new(SimulatedDevice::new(BLOCKS * BLOCK, 512, seed));
        let mut random = Random::new(seed);
        let (mut newest, mut certain) = (vec![0_u8; 16], vec![0_u8; 16]);
        let mut acknowledged = Vec::new();
        for mark in 1..=200_u8 {
            let block = random.below(16);
            let write = Write::whole(block as u64 * BLOCK, fill(mark));
            let durable = random.chance(60);
            device.submit(if durable { write.durable() } else { write }).wait().unwrap();
            newest[block] = mark;
            if random.chance(20) {
                device.flush().unwrap();
                certain.clone_from(&newest);
            } else if durable {
                certain[block] = mark;
            } else {
                continue;
            }
            acknowledged.push((device.recording().len(), certain.clone()));
        }
        let mut images = CrashImages::new(DeviceImage::new(BLOCKS * BLOCK), &device.recording()).unwrap();
        let lost = check_no_flushed_write_is_lost(&mut images, &acknowledged);
        assert!(lost > images.positions() / 20, "seed {seed}: {lost}");
        let complete = (0..50).filter(|seed| images.at(usize::MAX, *seed) == device.inner().image()).count();
        assert!(complete > 0);
    }
}
