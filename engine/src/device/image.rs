//! The contents of a device as a value: sparse, cheap to copy, and what power loss leaves of it.

use super::pages::{PAGE_BYTES, Pages};
use super::random::Random;
use super::widen;
use std::sync::Arc;

/// What a device writes atomically; writes tear at multiples of this.
pub const SECTOR_BYTES: usize = 512;

/// The bytes of a device. What was never written reads as zero. A clone shares all pages; blocks of 4 KiB that repeat one word of eight bytes take
/// about ten bytes of memory.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceImage {
    size_bytes: u64,
    pages: Pages,
}

impl DeviceImage {
    /// All zero.
    #[must_use]
    pub fn new(size_bytes: u64) -> DeviceImage {
        DeviceImage { size_bytes, pages: Pages::default() }
    }

    /// From the bytes of a whole device.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> DeviceImage {
        let mut image = DeviceImage::new(widen(bytes.len()));
        for (index, page) in bytes.chunks(PAGE_BYTES).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                image.write(widen(index * PAGE_BYTES), page);
            }
        }
        image
    }

    /// From a file, of its present length.
    ///
    /// # Errors
    /// What opening or reading it meets.
    pub fn from_file(path: &std::path::Path) -> std::io::Result<DeviceImage> {
        use std::io::Read as _;
        let mut file = std::fs::File::open(path)?;
        let mut image = DeviceImage::new(file.metadata()?.len());
        let mut chunk = vec![0_u8; 1 << 20];
        let mut offset = 0_u64;
        while offset < image.size_bytes {
            let left = usize::try_from(image.size_bytes - offset).unwrap_or(usize::MAX);
            let Some(part) = chunk.get_mut(..left.min(1 << 20)) else { break };
            file.read_exact(part)?;
            for (index, page) in part.chunks(PAGE_BYTES).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    image.write(offset + widen(index * PAGE_BYTES), page);
                }
            }
            offset += widen(part.len());
        }
        Ok(image)
    }

    /// Writes it to a sparse file, which is made or replaced.
    ///
    /// # Errors
    /// What creating or writing it meets.
    pub fn to_file(&self, path: &std::path::Path) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::create(path)?;
        file.set_len(self.size_bytes)?;
        for (index, content) in self.pages.iter() {
            let page = content.to_page();
            let offset = index * widen(PAGE_BYTES);
            let length = usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(PAGE_BYTES);
            file.write_all_at(page.get(..length).unwrap_or_default(), offset)?;
        }
        Ok(())
    }

    /// All bytes; for small devices.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size_bytes).unwrap_or(usize::MAX)];
        self.read(0, &mut bytes);
        bytes
    }

    /// A hash of the contents; a page of zeros counts like one that was never written.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.pages.iter().fold(self.size_bytes, |sum, (index, content)| {
            let hash = envoyfs_layout::checksum::hash64(&content.to_page());
            sum.rotate_left(5) ^ (hash.wrapping_add(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
    }

    /// Bytes of memory that the contents take, about; what clones share is counted for each.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.pages.memory()
    }

    /// Size of the device.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Fills `into` from `offset`; zeros past the end.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for_each_page(offset, into.len(), |page, within, range| {
            let Some(part) = into.get_mut(range) else { return };
            self.pages.get(page).copy(within, part);
        });
    }

    /// Replaces bytes from `offset`; what passes the end is ignored.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let bytes = bytes.get(..self.inside(offset, bytes.len())).unwrap_or_default();
        for_each_page(offset, bytes.len(), |page, within, range| {
            let Some(part) = bytes.get(range) else { return };
            self.pages.write(page, within, part);
        });
    }

    /// Zeroes a range, and forgets the pages that it covers whole.
    pub fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size_bytes);
        let page_bytes = widen(PAGE_BYTES);
        let (first_whole, last_whole) = (offset.div_ceil(page_bytes), end / page_bytes);
        if first_whole < last_whole {
            self.pages.zero(first_whole..last_whole);
        }
        for (from, to) in [(offset, end.min(first_whole * page_bytes)), (offset.max(last_whole * page_bytes), end)] {
            let length = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
            self.write(from, [0; 2 * PAGE_BYTES].get(..length).unwrap_or_default());
        }
    }

    fn inside(&self, offset: u64, length: usize) -> usize {
        usize::try_from(self.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(length)
    }
}

impl std::fmt::Debug for DeviceImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceImage").field("size_bytes", &self.size_bytes).field("memory", &self.memory()).finish()
    }
}

/// Calls `each(page, offset in the page, range of the bytes)` for every page that the bytes touch.
fn for_each_page(offset: u64, length: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let at = offset.saturating_add(widen(done));
        let within = usize::try_from(at % widen(PAGE_BYTES)).unwrap_or(0);
        let step = (PAGE_BYTES - within).min(length - done);
        each(at / widen(PAGE_BYTES), within, done..done + step);
        done += step;
    }
}

/// What a write or discard does to an image.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// The bytes of a write.
    Bytes(Arc<[u8]>),
    /// A discard of so many bytes: zeros from then on.
    Zeros(u64),
}

impl Payload {
    pub(super) fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => widen(bytes.len()),
            Payload::Zeros(length) => *length,
        }
    }

    /// Does all of it.
    pub(super) fn apply(&self, offset: u64, image: &mut DeviceImage) {
        match self {
            Payload::Bytes(bytes) => image.write(offset, bytes),
            Payload::Zeros(length) => image.zero(offset, *length),
        }
    }

    /// Calls `each(offset on the device, bytes)` for every sector.
    pub(super) fn for_each_sector(&self, offset: u64, mut each: impl FnMut(u64, &[u8; SECTOR_BYTES])) {
        match self {
            Payload::Bytes(bytes) => {
                for (index, sector) in bytes.as_chunks::<SECTOR_BYTES>().0.iter().enumerate() {
                    each(offset + widen(index * SECTOR_BYTES), sector);
                }
            }
            Payload::Zeros(length) => {
                for at in (offset..offset.saturating_add(*length)).step_by(SECTOR_BYTES) {
                    each(at, &[0; SECTOR_BYTES]);
                }
            }
        }
    }

    /// What is left of a write at `offset` without the bytes of `without`.
    pub(super) fn outside(&self, offset: u64, without: &std::ops::Range<u64>) -> Vec<(u64, Payload)> {
        let end = offset.saturating_add(self.len());
        if without.end <= offset || without.start >= end {
            return vec![(offset, self.clone())];
        }
        let piece = |from: u64, to: u64| match self {
            Payload::Zeros(_) => Some(Payload::Zeros(to - from)),
            Payload::Bytes(bytes) => {
                let index = |at: u64| usize::try_from(at - offset).ok();
                bytes.get(index(from)?..index(to)?).map(|part| Payload::Bytes(part.into()))
            }
        };
        let sides = [(offset, without.start), (without.end, end)];
        let sides = sides.into_iter().filter(|(from, to)| from < to);
        sides.filter_map(|(from, to)| Some((from, piece(from, to)?))).collect()
    }

    /// The byte that goes to `at`, of a write at `offset`.
    pub(super) fn byte_mut(&mut self, offset: u64, at: u64) -> Option<&mut u8> {
        match self {
            Payload::Bytes(bytes) => {
                let within = usize::try_from(at.checked_sub(offset)?).ok()?;
                Arc::make_mut(bytes).get_mut(within)
            }
            Payload::Zeros(_) => None,
        }
    }

    /// Does it for the sectors that `keep` chooses.
    fn apply_sectors(&self, offset: u64, image: &mut DeviceImage, mut keep: impl FnMut(u64) -> bool) {
        self.for_each_sector(offset, |at, sector| {
            if keep(at) {
                image.write(at, sector);
            }
        });
    }
}

/// How willing one power loss is to keep what was not flushed.
pub(super) struct Mercy {
    /// Chance to keep a write, in parts of 256.
    keep: u64,
}

impl Mercy {
    /// Drawn once for each power loss, so that "all is there" and "nothing is there" occur as often as mixtures.
    pub(super) fn draw(random: &mut Random) -> Mercy {
        Mercy { keep: [0, 64, 128, 192, 256].get(random.below(5)).copied().unwrap_or(128) }
    }

    /// Puts the writes into the order in which they meet the power loss: any, unless all survive.
    pub(super) fn order<T>(&self, writes: &mut [T], random: &mut Random) {
        if self.keep < 256 {
            random.shuffle(writes);
        }
    }

    pub(super) fn keeps(&self, random: &mut Random) -> bool {
        random.chance(self.keep)
    }
}

/// One write that no flush covers meets the power loss: torn in a quarter of the cases, else kept or dropped.
pub(super) fn lose_power(payload: &Payload, offset: u64, image: &mut DeviceImage, mercy: &Mercy, random: &mut Random) {
    let can_tear = payload.len() > widen(SECTOR_BYTES) && (1..256).contains(&mercy.keep);
    if can_tear && random.chance(64) {
        // Half of the torn ones are cut once, as by a device that writes in order; the others are moth-eaten.
        if random.chance(128) {
            let sectors = usize::try_from(payload.len() / widen(SECTOR_BYTES)).unwrap_or(usize::MAX);
            let cut = offset + widen((1 + random.below(sectors - 1)) * SECTOR_BYTES);
            let head_survives = random.chance(192);
            payload.apply_sectors(offset, image, |at| (at < cut) == head_survives);
        } else {
            payload.apply_sectors(offset, image, |_| random.chance(128));
        }
    } else if mercy.keeps(random) {
        payload.apply(offset, image);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_across_pages_and_clones_do_not_change() {
        let mut image = DeviceImage::new(3 * 4096);
        image.write(4000, &[7; 300]);
        let before = image.clone();
        image.zero(512, 8192);
        let mut back = [1; 400];
        before.read(3950, &mut back);
        assert_eq!((back[49], back[50], back[349], back[350]), (0, 7, 7, 0));
        assert!(image.to_bytes().iter().all(|byte| *byte == 0));
        assert_eq!(DeviceImage::from_bytes(&before.to_bytes()).to_bytes(), before.to_bytes());
    }

    #[test]
    fn zeroing_part_of_a_page_leaves_the_rest() {
        let mut image = DeviceImage::new(4 * 4096);
        image.write(0, &[9; 4 * 4096]);
        image.zero(512, 1024);
        image.zero(4096 + 512, 2 * 4096);
        let bytes = image.to_bytes();
        let zeros = |range: std::ops::Range<usize>| bytes[range].iter().all(|byte| *byte == 0);
        assert!(zeros(512..1536) && zeros(4608..4608 + 8192));
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1024 + 8192);
    }

    #[test]
    fn a_file_keeps_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = DeviceImage::new(2 * 4096 + 512);
        image.write(4096, &[3; 4096 + 512]);
        image.to_file(&dir.path().join("image")).unwrap();
        assert_eq!(DeviceImage::from_file(&dir.path().join("image")).unwrap(), image);
    }
}
