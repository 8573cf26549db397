//! The whole engine on a simulated device, driven by a small client that checks it.
#![expect(clippy::cast_possible_truncation, reason = "tests compute with small numbers")]

mod cleaning;
pub(crate) mod client;
mod crash;
mod exhaustion;
mod faults;
mod features;
mod full_ring;
mod history;
mod mark;
mod measure;
mod metrics;
#[cfg(feature = "models")]
mod models;
mod mounts;
mod numbers;
mod pieces;
#[cfg(feature = "models")]
mod pin_models;
mod pins;
mod pressure;
mod promises;
mod queued;
mod relocation;
mod replica;
mod scrub;
mod sharing;
#[cfg(feature = "models")]
mod slot_maps;
mod space;
mod threads;

use crate::device::SimulatedDevice;
use envoyfs_layout::superblock::{Barrier, Superblock};

/// From now on the store makes its barriers so.
fn set_barrier(device: &SimulatedDevice, barrier: Barrier) {
    let superblock = Superblock { barrier, ..crate::superblock::open(device).unwrap().superblock };
    crate::superblock::format(device, &superblock).unwrap();
}
