//! An image file mapped for reading: what an offline check looks at without copying it. Nothing is written, and nothing may change the file meanwhile (the caller holds its lock).
//!
//! A page of a mapping that cannot be read from the disk below would end the process (SIGBUS). So each window is *populated* first, by a call that reports the error instead
//! (`MADV_POPULATE_READ`, Linux 5.14), and let go when it was looked at, so that the mapping takes no more memory than its windows. Where the kernel does not know the
//! call, there is no mapping, and the caller reads.

use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;

/// See the module.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

/// Mappings are made of pages.
const PAGE: usize = 4096;

impl MappedFile {
    /// Maps a regular file. None if it is empty, if the address space has no room, or if the kernel cannot populate a window.
    #[must_use]
    pub fn of(file: &File) -> Option<Self> {
        if file.metadata().ok()?.len() == 0 {
            return None;
        }
        // SAFETY: the caller holds the lock that every writer of a store takes, so nobody changes or shortens the file while it is mapped. Whoever does so
        // in spite of it changes bytes that are only compared with checksums.
        let map = unsafe { Mmap::map(file) }.ok()?;
        let whole = Self { map };
        whole.map.advise_range(Advice::PopulateRead, 0, PAGE.min(whole.map.len())).ok()?;
        Some(whole)
    }

    /// Looks at bytes; none if they cannot all be read, or are not in the file.
    pub fn look<T>(&self, offset: u64, length: usize, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.map.get(start..start.checked_add(length)?)?;
        let from = start / PAGE * PAGE;
        let whole = (start + length).next_multiple_of(PAGE).min(self.map.len()) - from;
        self.map.advise_range(Advice::PopulateRead, from, whole).ok()?;
        let seen = look(bytes);
        // SAFETY: the mapping is of a file, shared and never written to: pages that are let go are read from the file again by whoever looks next, also by
        // another thread that is looking at them now.
        let _let_go = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, from, whole) };
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn windows_show_the_file_and_nothing_beyond_it() {
        let path = std::env::temp_dir().join(format!("envoyfs-mapped-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(MappedFile::of(&file).is_none(), "an empty file");
        let bytes: Vec<u8> = (0..3 * PAGE + 700).map(|at| u8::try_from(at % 251).unwrap()).collect();
        file.write_all(&bytes).unwrap();
        let map = MappedFile::of(&file).unwrap();
        for (offset, length) in [(0, 1), (4095, 2), (5000, 7000), (3 * PAGE + 500, 200), (0, bytes.len())] {
            let seen = map.look(offset as u64, length, <[u8]>::to_vec);
            assert_eq!(seen.as_deref(), Some(&bytes[offset..offset + length]));
        }
        assert!(map.look(bytes.len() as u64, 1, |_| ()).is_none());
        assert!(map.look(u64::MAX, 2, |_| ()).is_none());
    }
}
