//! Something large that a container's end cuts in two: however small one of the pieces is, it is written with the other one, not by itself as small data is, which a commit waits for.

use super::client::{clock, content, small_format, tight};
use super::set_barrier;
use crate::device::{AlignedBuf, Device, DeviceError, Geometry, SimulatedDevice, Ticket, Write};
use crate::store::{DataObject, Need, Store as _, Tier};
use crate::{Engine, Options};
use envoyfs_layout::superblock::Barrier;
use parking_lot::Mutex;
use std::sync::Arc;

/// Notes how each write was asked for.
struct Noting {
    device: SimulatedDevice,
    writes: Mutex<Vec<Noted>>,
    report_apart: bool,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    offset: u64,
    lazy: bool,
    durable: bool,
}

impl Device for Noting {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        self.device.read(offset, into)
    }
    fn submit(&self, write: Write) -> Ticket {
        self.writes.lock().push(Noted { offset: write.offset, lazy: write.lazy, durable: write.durable });
        self.device.submit(write)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.device.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.device.discard(offset, len)
    }
    fn label(&self) -> String {
        self.device.label()
    }
    fn durable_writes_report_apart(&self) -> bool {
        self.report_apart
    }
}

/// A store that was formatted where durable writes are better than flushes.
fn open_noting(report_apart: bool) -> (Arc<Noting>, Engine) {
    let device = SimulatedDevice::new(8 << 20, 512, 5);
    small_format(&device);
    set_barrier(&device, Barrier::ForcedUnitAccess);
    let noting = Arc::new(Noting { device, writes: Mutex::default(), report_apart });
    let options = Options { read_only: false, threads: false, accept_loss: false, clock: clock(), settings: tight() };
    let engine = Engine::open(Arc::<Noting>::clone(&noting), options).unwrap();
    (noting, engine)
}

fn append(engine: &Engine, seed: u64, bytes: u32) -> Vec<DataObject> {
    let need =
        Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 2 * u64::from(bytes), tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let mut buffer = engine.buffer(bytes);
    buffer.as_mut_slice().copy_from_slice(&content(seed, 0, bytes));
    engine.append_buffer(&mut permit, buffer, bytes).unwrap()
}

#[test]
fn a_small_piece_of_something_large_is_not_written_as_small_data_is() {
    let (noting, engine) = open_noting(true);
    let noted = |object: &DataObject| {
        let shape = engine.reader.shape();
        let home = engine.reader.home(object.oid.segment()).unwrap();
        let offset = shape.offset(home, object.oid.slot().into());
        *noting.writes.lock().iter().rev().find(|write| write.offset == offset).unwrap()
    };
    // What small data is written like.
    let small = append(&engine, 1, 4096);
    assert!(small.len() == 1 && noted(&small[0]).lazy && noted(&small[0]).durable);
    let (mut small_heads, mut small_tails) = (0, 0);
    for seed in 0..200 {
        // Lengths that end containers at ever other places.
        let objects = append(&engine, seed, 36 << 10);
        for object in &objects {
            let Noted { lazy, durable, .. } = noted(object);
            assert!(!lazy && !durable, "{} of {} bytes", object.oid, object.stored_bytes);
        }
        if let [head, .., tail] = objects.as_slice() {
            small_heads += u32::from(head.stored_bytes <= 16 << 10);
            small_tails += u32::from(tail.stored_bytes <= 16 << 10);
        }
        objects.iter().for_each(|object| engine.abandon_data(object));
        if small_heads > 0 && small_tails > 0 {
            return;
        }
    }
    panic!("{small_heads} small heads, {small_tails} small tails");
}

/// An image that is moved to a file system without direct IO.
#[test]
fn where_one_report_of_a_lost_write_is_all_there_is_nothing_is_written_durably() {
    for report_apart in [true, false] {
        let (noting, engine) = open_noting(report_apart);
        append(&engine, 1, 4096);
        engine.writer().unwrap().wal.barrier().unwrap();
        assert_eq!(noting.writes.lock().iter().any(|write| write.durable), report_apart);
    }
}
