//! Reading and writing of variable-length structures: little-endian, bounds-checked, errors that name structure and field.

use crate::{Hlc, LayoutError, Totals};

/// Writes fields one after the other. A length that does not fit its field is remembered and told by [`Writer::finish`].
#[derive(Debug)]
pub(crate) struct Writer {
    structure: &'static str,
    bytes: Vec<u8>,
    error: Option<LayoutError>,
}

impl Writer {
    pub(crate) fn new(structure: &'static str) -> Self {
        Self { structure, bytes: Vec::with_capacity(192), error: None }
    }
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
    pub(crate) fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn hlc(&mut self, value: Hlc) {
        self.u64(value.0);
    }
    pub(crate) fn totals(&mut self, value: &Totals) {
        self.raw(&value.encode());
    }
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }
    /// A count or length of at most `max`, one byte.
    pub(crate) fn len8(&mut self, field: &'static str, len: usize, max: usize) {
        self.check(field, len, max);
        let value = u8::try_from(len).unwrap_or_else(|_| self.fail(field, len));
        self.u8(value);
    }
    /// A count or length of at most `max`, two bytes.
    pub(crate) fn len16(&mut self, field: &'static str, len: usize, max: usize) {
        self.check(field, len, max);
        let value = u16::try_from(len).unwrap_or_else(|_| self.fail(field, len));
        self.u16(value);
    }
    /// A count or length of at most `max`, four bytes.
    pub(crate) fn len32(&mut self, field: &'static str, len: usize, max: usize) {
        self.check(field, len, max);
        let value = u32::try_from(len).unwrap_or_else(|_| self.fail(field, len));
        self.u32(value);
    }
    /// Remembers that a field cannot be written.
    pub(crate) fn fail<T: Default>(&mut self, field: &'static str, found: usize) -> T {
        self.error.get_or_insert(LayoutError::Field { structure: self.structure, field, found: found as u64 });
        T::default()
    }
    fn check(&mut self, field: &'static str, len: usize, max: usize) {
        if len > max {
            self.fail::<()>(field, len);
        }
    }
    pub(crate) fn finish(self) -> Result<Vec<u8>, LayoutError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.bytes),
        }
    }
}

/// Reads fields one after the other from hostile bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    structure: &'static str,
    all: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self { structure, all: bytes.len(), rest: bytes }
    }
    pub(crate) const fn field(&self, field: &'static str, found: u64) -> LayoutError {
        LayoutError::Field { structure: self.structure, field, found }
    }
    pub(crate) const fn unknown(&self, what: &'static str, found: u64) -> LayoutError {
        LayoutError::Unknown { structure: self.structure, what, found }
    }
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], LayoutError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(LayoutError::Short {
            structure: self.structure,
            expected: (self.all - self.rest.len()).saturating_add(count),
            found: self.all,
        })?;
        self.rest = rest;
        Ok(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, LayoutError> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, LayoutError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.field(field, other.into())),
        }
    }
    pub(crate) fn u16(&mut self) -> Result<u16, LayoutError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, LayoutError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, LayoutError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn i64(&mut self) -> Result<i64, LayoutError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    pub(crate) fn hlc(&mut self) -> Result<Hlc, LayoutError> {
        Ok(Hlc(self.u64()?))
    }
    pub(crate) fn totals(&mut self) -> Result<Totals, LayoutError> {
        Ok(Totals::from_bytes(&self.array()?))
    }
    pub(crate) fn len8(&mut self, field: &'static str, max: usize) -> Result<usize, LayoutError> {
        let len = usize::from(self.u8()?);
        self.checked(field, len, max)
    }
    pub(crate) fn len16(&mut self, field: &'static str, max: usize) -> Result<usize, LayoutError> {
        let len = usize::from(self.u16()?);
        self.checked(field, len, max)
    }
    pub(crate) fn len32(&mut self, field: &'static str, max: usize) -> Result<usize, LayoutError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        self.checked(field, len, max)
    }
    fn checked(&self, field: &'static str, len: usize, max: usize) -> Result<usize, LayoutError> {
        if len > max { Err(self.field(field, len as u64)) } else { Ok(len) }
    }
    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), LayoutError> {
        match self.take(count)?.iter().find(|b| **b != 0) {
            Some(byte) => Err(self.field("reserved", (*byte).into())),
            None => Ok(()),
        }
    }
    /// Bytes not read yet.
    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), LayoutError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.field("bytes after the end", self.rest.len() as u64)) }
    }
}
