//! What is checked: any device, read at any offset and length.

use super::source::Source;
use envoyfs_engine::device::{AlignedBuf, Device, DeviceError, MappedFile, Operation};
use std::sync::Arc;

/// A device with reads that need not be aligned. Clones are handles on the same device.
#[derive(Clone)]
pub struct Disk {
    device: Arc<dyn Device>,
    /// The same, if it can be read at any offset without a copy in between.
    source: Option<Arc<Source>>,
    /// An image file that is only read.
    map: Option<Arc<MappedFile>>,
}

impl Disk {
    /// Over a device.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, source: None, map: None }
    }

    /// Over an image file or block device. An image file that is only read is mapped.
    #[must_use]
    pub fn of(source: Source) -> Self {
        let map = source.map().map(Arc::new);
        let source = Arc::new(source);
        let device: Arc<dyn Device> = source.clone();
        Self { device, source: Some(source), map }
    }

    /// Shows bytes from `offset` on: where they are mapped, or else read into `buffer`.
    ///
    /// # Errors
    /// Past the end, or what the device reports.
    pub fn look<T>(
        &self,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
        look: impl Fn(&[u8]) -> T,
    ) -> Result<T, DeviceError> {
        if let Some(seen) = self.map.as_ref().and_then(|map| map.look(offset, length, &look)) {
            return Ok(seen);
        }
        // What was there before is overwritten; only what it grows by is set to zero.
        buffer.resize(length, 0);
        self.read_at(offset, buffer)?;
        Ok(look(buffer))
    }

    /// Tells the system that these bytes are wanted soon.
    pub fn expect(&self, offset: u64, length: u64) {
        self.source.iter().for_each(|source| source.expect(offset, length));
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
        if let Some(source) = &self.source {
            return source.read_at(offset, into);
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
