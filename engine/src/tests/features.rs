//! Feature words of the superblock that this version does not know: refused, read only, or kept (DESIGN 5).

use super::client::{Client, Op, clock, open, small_format};
use crate::StoreError;
use crate::device::SimulatedDevice;
use crate::store::{Need, Store as _, Tier};
use envoyfs_layout::superblock::Superblock;

/// Bits that no version has given a meaning.
const UNKNOWN: u64 = 1 << 40;

fn store(change: impl FnOnce(&mut Superblock)) -> SimulatedDevice {
    let device = SimulatedDevice::new(16 << 20, 4096, 3);
    small_format(&device);
    let mut superblock = superblock(&device);
    change(&mut superblock);
    crate::superblock::format(&device, &superblock).unwrap();
    device
}

fn superblock(device: &SimulatedDevice) -> Superblock {
    let mut first = crate::device::AlignedBuf::zeroed(4096);
    crate::device::Device::read(device, 0, &mut first).unwrap();
    Superblock::decode(first.as_slice(), 0).unwrap()
}

#[test]
fn an_unknown_incompatible_feature_refuses_the_mount() {
    let device = store(|superblock| superblock.incompatible = UNKNOWN);
    let before = superblock(&device);
    let error = open(&device, &clock()).err().expect("it mounts").to_string();
    assert!(error.contains("features") && error.contains("0x10000000000") && error.contains("newer"), "{error}");
    assert_eq!(superblock(&device), before);
}

#[test]
fn an_unknown_read_only_feature_allows_only_to_read() {
    let device = store(|superblock| superblock.read_only_compatible = UNKNOWN);
    let before = superblock(&device);
    let engine = open(&device, &clock()).unwrap();
    let need = Need { log_bytes: 64, node_bytes: 512, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
    let refused = engine.reserve(need).err().expect("it may write");
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
    drop(engine);
    assert_eq!(superblock(&device), before, "something was published");
}

#[test]
fn an_unknown_compatible_feature_is_kept() {
    let device = store(|superblock| superblock.compatible = UNKNOWN);
    let clock = clock();
    let mut client = Client::start(open(&device, &clock).unwrap(), clock);
    client.run(&Op::Small { tree: 1, key: 1, seed: 5, len: 100 }).unwrap();
    client.checkpoint().unwrap();
    let after = superblock(&device);
    assert!(after.sequence > 1 && after.compatible == UNKNOWN, "{after:?}");
}
