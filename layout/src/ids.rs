//! Identifiers and clocks: object ids, log positions, hybrid logical clock.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// A 64-bit, location-independent object id, never reused: volume 16 bits, segment 32 bits, slot 16 bits (units of 512 bytes from the birth segment's start). Zero is "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Oid(pub u64);

impl Oid {
    /// No object.
    pub const NONE: Self = Self(0);

    /// Puts an id together.
    #[must_use]
    pub const fn new(volume: u16, segment: u32, slot: u16) -> Self {
        Self((volume as u64) << 48 | (segment as u64) << 16 | slot as u64)
    }
    /// Volume that the object was born in.
    #[must_use]
    pub const fn volume(self) -> u16 {
        let [a, b, ..] = self.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }
    /// Segment that the object was born in.
    #[must_use]
    pub const fn segment(self) -> u32 {
        let [_, _, a, b, c, d, ..] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
    /// Unit in the birth segment at which the object starts.
    #[must_use]
    pub const fn slot(self) -> u16 {
        let [.., a, b] = self.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }
    /// Is this "no object"?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}:{:x}", self.volume(), self.segment(), self.slot())
    }
}

/// Hashes ids, which this store drew itself: spread well, at a tenth of what a hash costs that withstands chosen keys. (Whoever can choose ids on a device can do worse.)
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }
    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        // Both halves of a product by the golden ratio: maps look at the highest and the lowest bits.
        let product = u128::from(self.0.rotate_left(32) ^ value) * 0x9E37_79B9_7F4A_7C15;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = product.to_le_bytes();
        self.0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    }
}

/// A map by id or number.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hybrid logical clock: milliseconds since 1970 in the high 48 bits, a counter in the low 16. Strictly increasing, also over crashes (INV-01).
/// A record's HLC is even; the births it causes are one more; the share time of a fork is the record's HLC itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// Birth of what a record with this HLC creates or changes.
    #[must_use]
    pub const fn birth(self) -> Self {
        Self(self.0 | 1)
    }
    /// Milliseconds since 1970.
    #[must_use]
    pub const fn milliseconds(self) -> u64 {
        self.0 >> 16
    }
    /// The earliest record HLC at a time in milliseconds since 1970.
    #[must_use]
    pub const fn from_milliseconds(ms: u64) -> Self {
        Self(ms << 16)
    }
    /// The next record HLC after this one.
    #[must_use]
    pub const fn next_record(self) -> Self {
        Self((self.0 | 1) + 1)
    }
    /// Is something with this birth exclusive on a path whose largest share time is `share`? (DESIGN 3)
    #[must_use]
    pub const fn exclusive(self, share: Self) -> bool {
        self.0 > share.0
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04x}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Byte offset in the volume's stream of shared records; half-open: "durable = L" means every record before L.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oid_parts_round_trip() {
        let oid = Oid::new(0xfffe, 0x8000_0001, 0x7fff);
        assert_eq!((oid.volume(), oid.segment(), oid.slot()), (0xfffe, 0x8000_0001, 0x7fff));
    }

    #[test]
    fn births_lie_between_records() {
        let record = Hlc::from_milliseconds(5).next_record();
        assert!(record.birth() > record && record.birth() < record.next_record());
        assert!(record.birth().exclusive(record) && !record.birth().exclusive(record.next_record()));
    }
}
