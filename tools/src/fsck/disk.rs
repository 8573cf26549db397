//! What is checked: any device, read at any offset and length.

use super::source::{DIRECT, Source};
use envoyfs_engine::device::{AlignedBuf, BufferClass, BufferPool, Device, DeviceError, MappedFile, Operation};
use std::sync::Arc;

/// What a reader looks through where nothing is mapped; grows to what it is asked for.
#[derive(Debug)]
pub struct Window {
    pool: BufferPool,
    held: Option<AlignedBuf>,
}

impl Window {
    /// Windows for so many readers of so many bytes each, in large pages: of small ones the kernel makes many small requests.
    pub fn pool(readers: usize, bytes: usize) -> BufferPool {
        BufferPool::new(&[BufferClass { bytes, count: readers }])
    }

    /// In memory of this pool.
    pub fn new(pool: &BufferPool) -> Self {
        Self { pool: pool.clone(), held: None }
    }

    fn of(&mut self, length: usize) -> &mut [u8] {
        let held = self.held.take().filter(|held| held.len() >= length);
        self.held.insert(held.unwrap_or_else(|| self.pool.take(length))).as_mut_slice()
    }
}

/// A device with reads that need not be aligned. Clones are handles on the same device.
#[derive(Clone)]
pub struct Disk {
    device: Arc<dyn Device>,
    /// The same, if it can be read at any offset without a copy in between.
    source: Option<Arc<Source>>,
    /// An image file that is only read, where large reads cannot be direct.
    map: Option<Arc<MappedFile>>,
}

impl Disk {
    /// Over a device.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, source: None, map: None }
    }

    /// Over an image file or block device.
    #[must_use]
    pub fn of(source: Source) -> Self {
        let map = source.map().map(Arc::new);
        let source = Arc::new(source);
        let device: Arc<dyn Device> = source.clone();
        Self { device, source: Some(source), map }
    }

    /// Shows bytes from `offset` on: where they are mapped, or else read into `window`.
    ///
    /// # Errors
    /// Past the end, or what the device reports.
    pub fn look<T>(
        &self,
        offset: u64,
        length: usize,
        window: &mut Window,
        look: impl Fn(&[u8]) -> T,
    ) -> Result<T, DeviceError> {
        if let Some(seen) = self.map.as_ref().and_then(|map| map.look(offset, length, &look)) {
            return Ok(seen);
        }
        let from = offset / DIRECT * DIRECT;
        let skip = usize::try_from(offset - from).unwrap_or(0);
        let whole = (skip + length).next_multiple_of(usize::try_from(DIRECT).unwrap_or(1));
        let buffer = window.of(whole);
        if let Some(source) = self.source.as_ref().filter(|source| source.is_direct())
            && let Some(into) = buffer.get_mut(..whole)
            && source.read_direct(from, into)
            && let Some(bytes) = into.get(skip..skip + length)
        {
            return Ok(look(bytes));
        }
        let Some(into) = buffer.get_mut(..length) else {
            let size = self.size_bytes();
            return Err(DeviceError::ShortDevice { operation: Operation::Read, offset, length: length as u64, size });
        };
        self.read_at(offset, into)?;
        Ok(look(into))
    }

    /// Claims the identity that the store is about to have, if none is claimed: see [`Source::claim`].
    ///
    /// # Errors
    /// A store that has it is mounted, or being repaired.
    pub fn claim(&self, identity: [u8; 16]) -> anyhow::Result<()> {
        self.source.as_ref().map_or(Ok(()), |source| source.claim(identity))
    }

    /// Is it of use to say what is wanted soon?
    #[must_use]
    pub const fn expects(&self) -> bool {
        self.source.is_some()
    }

    /// Tells the system which window is next, if it reads ahead for windows at all.
    pub fn expect_window(&self, offset: u64, length: u64) {
        if self.source.as_ref().is_some_and(|source| self.map.is_some() || !source.is_direct()) {
            self.expect(offset, length);
        }
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

    /// The smallest block that a mount could write here.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        let own = || self.device.geometry().logical_block_bytes;
        self.source.as_ref().map_or_else(own, |source| source.block_bytes())
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
