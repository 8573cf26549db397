//! A device that forgets what is written to it, but for the superblock: what a dry run formats, so that it shows the geometry that the real run would make.

use envoyfs_engine::device::{AlignedBuf, Device, DeviceError, Geometry, Ticket, Write};
use envoyfs_layout::superblock::{BYTES, Superblock};
use std::sync::{Mutex, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Planning {
    geometry: Geometry,
    first_block: Mutex<Vec<u8>>,
}

impl Planning {
    /// An empty device.
    #[must_use]
    pub fn new(size_bytes: u64, logical_block_bytes: u32, is_block_device: bool) -> Self {
        Self { geometry: Geometry { size_bytes, logical_block_bytes, is_block_device }, first_block: Mutex::default() }
    }

    /// The superblock written last.
    #[must_use]
    pub fn superblock(&self) -> Option<Superblock> {
        Superblock::decode(&self.first_block.lock().unwrap_or_else(PoisonError::into_inner), 0).ok()
    }
}

impl Device for Planning {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn read(&self, _offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        into.as_mut_slice().fill(0);
        Ok(())
    }
    fn submit(&self, write: Write) -> Ticket {
        if let Some(block) = write.bytes().and_then(|bytes| bytes.get(..BYTES)).filter(|_| write.offset == 0) {
            *self.first_block.lock().unwrap_or_else(PoisonError::into_inner) = block.to_vec();
        }
        Ticket::done(Ok(()))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn discard(&self, _offset: u64, _len: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn label(&self) -> String {
        "dry run".into()
    }
}
