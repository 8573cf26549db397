//! What is checked: any device, read at any offset and length.

use envoyfs_engine::device::{AlignedBuf, Device, DeviceError, Operation};
use std::sync::Arc;

/// A device with reads that need not be aligned. Clones are handles on the same device.
#[derive(Clone)]
pub struct Disk {
    device: Arc<dyn Device>,
}

impl Disk {
    /// Over a device.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The device, to be shared.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Device> {
        Arc::clone(&self.device)
    }

    /// Bytes of the device.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.device.geometry().size_bytes
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// Past the end, or what the device reports.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DeviceError> {
        if into.is_empty() {
            return Ok(());
        }
        let block = u64::from(self.device.geometry().logical_block_bytes.max(512));
        let length = into.len() as u64;
        let operation = Operation::Read;
        let end = offset.checked_add(length).and_then(|end| end.checked_next_multiple_of(block));
        let from = offset / block * block;
        let size = self.size_bytes();
        let short = DeviceError::ShortDevice { operation, offset, length, size };
        let end = end.filter(|end| *end <= size).ok_or(short.clone())?;
        let whole = usize::try_from(end - from).map_err(|_| short.clone())?;
        let mut buffer = AlignedBuf::zeroed(whole);
        self.device.read(from, &mut buffer)?;
        let skip = usize::try_from(offset - from).map_err(|_| short.clone())?;
        into.copy_from_slice(buffer.as_slice().get(skip..skip + into.len()).ok_or(short)?);
        Ok(())
    }
}
