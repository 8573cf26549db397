//! Sums over a subtree, kept beside every reference to a directory (INV-27).

use crate::LayoutError;

/// What is below: 32 bytes. Nested realms included, snapshots and orphans not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files, symbolic links and special files.
    pub files: u64,
    /// Directories and realms.
    pub directories: u64,
    /// Names of files with several names.
    pub links: u64,
}

impl Totals {
    /// Bytes on disk.
    pub const BYTES: usize = 32;
    /// Nothing.
    pub const ZERO: Self = Self { bytes: 0, files: 0, directories: 0, links: 0 };

    /// Sum, wrapping (damaged summands must not stop a reader; fsck compares).
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_add(other.bytes),
            files: self.files.wrapping_add(other.files),
            directories: self.directories.wrapping_add(other.directories),
            links: self.links.wrapping_add(other.links),
        }
    }
    /// Difference, wrapping.
    #[must_use]
    pub const fn sub(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.wrapping_sub(other.bytes),
            files: self.files.wrapping_sub(other.files),
            directories: self.directories.wrapping_sub(other.directories),
            links: self.links.wrapping_sub(other.links),
        }
    }
    /// Are there no names at all?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.files == 0 && self.directories == 0 && self.links == 0
    }
    /// Bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let fields = [self.bytes, self.files, self.directories, self.links];
        for (to, from) in out.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        out
    }
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut fields = [0_u64; 4];
        for (to, from) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(from);
            *to = u64::from_le_bytes(word);
        }
        let [bytes, files, directories, links] = fields;
        Self { bytes, files, directories, links }
    }
    /// From exactly 32 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let array: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| LayoutError::Short {
            structure: "totals",
            expected: Self::BYTES,
            found: bytes.len(),
        })?;
        Ok(Self::from_bytes(array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_totals() {
        let totals = Totals { bytes: 1, files: 2, directories: 3, links: 0x0102_0304 };
        let bytes = totals.encode();
        assert_eq!(bytes[0..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..32], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(Totals::decode(&bytes), Ok(totals));
        assert!(Totals::decode(&bytes[..31]).is_err());
    }

    #[test]
    fn sums_and_differences_cancel() {
        let a = Totals { bytes: 5, files: 1, directories: 0, links: 9 };
        let b = Totals { bytes: 7, files: 3, directories: 2, links: 1 };
        assert_eq!(a.add(b).sub(b), a);
        assert!(Totals::ZERO.is_empty() && !a.is_empty());
    }
}
