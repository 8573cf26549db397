//! One record: header, and the parts that its flags announce.

use super::{RECORD_BYTES_MAX, RECORD_HEADER_BYTES};
use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError, Oid, checksum};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const NAME: &str = "WAL record";
const FLAG_ORIGIN: u8 = 1;
const FLAG_RESULT: u8 = 2;
const FLAG_DATA: u8 = 4;
const FLAG_IGNORABLE: u8 = 8;
const FLAGS_KNOWN: u8 = 15;
const HLC_AT: usize = 8;
const CRC_AT: usize = 16;

/// A length as the stream counts it: the next record starts at a multiple of 8.
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    bytes.saturating_add(7) & !7
}

/// Exactly-once identity of a forwarded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Host 16 bits, boot generation 48 bits.
    pub client: u64,
    /// Sequence of the request.
    pub sequence: u64,
    /// Lowest unanswered sequence of that client.
    pub floor: u64,
}

/// What a forwarded request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// 0 or an error number of the protocol.
    pub status: u32,
    /// Flags of the protocol.
    pub flags: u32,
    /// Inode concerned.
    pub inode: u64,
    /// Its version.
    pub version: u64,
}

/// A data object that a record names, with one checksum per 4 KiB of its stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedObject<C = Vec<u32>> {
    /// The object.
    pub oid: Oid,
    /// The object that it continues, if it does.
    pub extends: Option<Oid>,
    /// Stored bytes, a multiple of 512.
    pub stored_bytes: u32,
    /// CRC32C of every 4 KiB.
    pub crcs: C,
}

/// What a record is made of; see [`RecordParts::encode`].
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    /// Kind.
    pub kind: u16,
    /// True of this store only, outside the LSN.
    pub local: bool,
    /// A reader that does not know the kind may skip it.
    pub ignorable: bool,
    /// HLC, even; 0 in a local record.
    pub hlc: Hlc,
    /// Territory that it changes.
    pub territory: u64,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Its answer.
    pub result: Option<OperationResult>,
    /// Data objects.
    pub data: &'a [NamedObject<&'a [u32]>],
    /// Body.
    pub body: &'a [u8],
}

/// A record read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Kind.
    pub kind: u16,
    /// True of this store only.
    pub local: bool,
    /// May be skipped when the kind is unknown.
    pub ignorable: bool,
    /// HLC.
    pub hlc: Hlc,
    /// Territory.
    pub territory: u64,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Its answer.
    pub result: Option<OperationResult>,
    /// Data objects.
    pub data: Vec<NamedObject>,
    /// Body.
    pub body: Vec<u8>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// Bytes with this header, without padding.
    length: U32,
    kind: U16,
    /// 0 shared, 1 local.
    class: u8,
    /// 1 origin, 2 result, 4 names data, 8 ignorable.
    flags: u8,
    hlc: U64,
    /// Of header with this field zero, and the rest; not seeded.
    crc: U32,
    reserved: U32,
    territory: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOrigin {
    client: U64,
    sequence: U64,
    floor: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResult {
    status: U32,
    flags: U32,
    inode: U64,
    version: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTable {
    /// Objects.
    count: U32,
    reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawObject {
    oid: U64,
    /// 0 = none.
    extends: U64,
    stored_bytes: U32,
    /// Checksums that follow, 4 bytes each, padded to 8 together.
    blocks: U32,
}

const _: () = assert!(size_of::<RawHeader>() == RECORD_HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(RawHeader, crc) == CRC_AT && std::mem::offset_of!(RawHeader, hlc) == HLC_AT);
const _: () = assert!(std::mem::offset_of!(RawHeader, length) == 0);
const _: () = assert!(size_of::<RawOrigin>() == 24 && size_of::<RawResult>() == 24);
const _: () = assert!(size_of::<RawTable>() == 8 && size_of::<RawObject>() == 24);

/// Bytes of a data object in a record's data table.
#[must_use]
pub const fn object_bytes(blocks: usize) -> usize {
    24_usize.saturating_add(padded(blocks.saturating_mul(4)))
}

impl RecordParts<'_> {
    /// Bytes of the record without padding.
    #[must_use]
    pub fn length(&self) -> usize {
        let table = match self.data {
            [] => 0,
            data => data.iter().map(|object| object_bytes(object.crcs.len())).fold(8_usize, usize::saturating_add),
        };
        RECORD_HEADER_BYTES
            .saturating_add(if self.origin.is_some() { 24 } else { 0 })
            .saturating_add(if self.result.is_some() { 24 } else { 0 })
            .saturating_add(table)
            .saturating_add(self.body.len())
    }

    /// Appends the record, padded to 8, to `out`.
    ///
    /// # Errors
    /// Longer than [`RECORD_BYTES_MAX`]; then nothing was appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        let start = out.len();
        self.encode_unstamped(out)?;
        stamp(out.get_mut(start..).unwrap_or_default(), self.hlc);
        Ok(())
    }

    /// The same without HLC and checksum, which [`stamp`] adds: a log draws the one when everything else is in place, and the other covers it.
    ///
    /// # Errors
    /// As [`RecordParts::encode`].
    pub fn encode_unstamped(&self, out: &mut Vec<u8>) -> Result<(), LayoutError> {
        let length = self.length();
        let stored = u32::try_from(length).ok().filter(|_| length <= RECORD_BYTES_MAX);
        let Some(stored) = stored else {
            return Err(LayoutError::Field { structure: NAME, field: "length", found: length as u64 });
        };
        let start = out.len();
        let bit = |set: bool, flag: u8| if set { flag } else { 0 };
        let header = RawHeader {
            length: stored.into(),
            kind: self.kind.into(),
            class: u8::from(self.local),
            flags: bit(self.origin.is_some(), FLAG_ORIGIN)
                | bit(self.result.is_some(), FLAG_RESULT)
                | bit(!self.data.is_empty(), FLAG_DATA)
                | bit(self.ignorable, FLAG_IGNORABLE),
            hlc: 0.into(),
            crc: 0.into(),
            reserved: 0.into(),
            territory: self.territory.into(),
        };
        out.extend_from_slice(header.as_bytes());
        if let Some(origin) = self.origin {
            let raw = RawOrigin {
                client: origin.client.into(),
                sequence: origin.sequence.into(),
                floor: origin.floor.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
        if let Some(result) = self.result {
            let raw = RawResult {
                status: result.status.into(),
                flags: result.flags.into(),
                inode: result.inode.into(),
                version: result.version.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
        if !self.data.is_empty() {
            let count = u32::try_from(self.data.len()).unwrap_or(u32::MAX).into();
            out.extend_from_slice(RawTable { count, reserved: 0.into() }.as_bytes());
            for object in self.data {
                let raw = RawObject {
                    oid: object.oid.0.into(),
                    extends: object.extends.unwrap_or(Oid::NONE).0.into(),
                    stored_bytes: object.stored_bytes.into(),
                    blocks: u32::try_from(object.crcs.len()).unwrap_or(u32::MAX).into(),
                };
                out.extend_from_slice(raw.as_bytes());
                for crc in object.crcs {
                    out.extend_from_slice(&crc.to_le_bytes());
                }
                if object.crcs.len() % 2 == 1 {
                    out.extend_from_slice(&[0; 4]);
                }
            }
        }
        out.extend_from_slice(self.body);
        out.resize(start + padded(length), 0);
        Ok(())
    }
}

/// Puts HLC and checksum into a record that [`RecordParts::encode_unstamped`] made. Bytes that do not start with a whole record are left alone.
pub fn stamp(record: &mut [u8], hlc: Hlc) {
    let length = record.first_chunk().map_or(0, |word| record_bytes(u64::from_le_bytes(*word)));
    let Some(whole) = record.get_mut(..length).filter(|whole| whole.len() >= RECORD_HEADER_BYTES) else { return };
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = whole.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(HLC_AT, &hlc.0.to_le_bytes());
    put(CRC_AT, &[0; 4]);
    let crc = checksum::crc32c(whole);
    if let Some(field) = whole.get_mut(CRC_AT..CRC_AT + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Length of a record without padding, from its first 8 bytes. No record starts with 8 zeros.
#[must_use]
pub const fn record_bytes(first_word: u64) -> usize {
    (first_word & 0xffff_ffff) as usize
}

/// Bytes taken off the front, one typed piece at a time.
struct Cursor<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl Cursor<'_> {
    fn take<T: FromBytes>(&mut self) -> Result<T, LayoutError> {
        let expected = self.whole.saturating_sub(self.rest.len()).saturating_add(size_of::<T>());
        let short = LayoutError::Short { structure: NAME, expected, found: self.whole };
        let (piece, rest) = T::read_from_prefix(self.rest).map_err(|_| short)?;
        self.rest = rest;
        Ok(piece)
    }
}

fn field<T>(field: &'static str, found: u64) -> Result<T, LayoutError> {
    Err(LayoutError::Field { structure: NAME, field, found })
}

impl Record {
    /// The record at the front of `bytes`, and how many bytes it takes with its padding.
    ///
    /// # Errors
    /// [`LayoutError::Short`] if the record goes on behind the end of `bytes`; else damaged, or from a newer version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), LayoutError> {
        let short = |expected| LayoutError::Short { structure: NAME, expected, found: bytes.len() };
        let (header, _) = RawHeader::read_from_prefix(bytes).map_err(|_| short(RECORD_HEADER_BYTES))?;
        let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
        if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            return field("length", header.length.get().into());
        }
        let taken = padded(length);
        let Some((whole, padding)) = bytes.get(..taken).and_then(|taken| taken.split_at_checked(length)) else {
            return Err(short(taken));
        };
        let mut zeroed = header;
        zeroed.crc = 0.into();
        let (_, rest) = whole.split_at_checked(RECORD_HEADER_BYTES).ok_or_else(|| short(length))?;
        let found = checksum::crc32c_pieces(&[zeroed.as_bytes(), rest]);
        if found != header.crc.get() {
            return Err(LayoutError::Checksum { structure: NAME, expected: header.crc.get(), found });
        }
        if header.flags & !FLAGS_KNOWN != 0 {
            return Err(LayoutError::Unknown { structure: NAME, what: "flags", found: header.flags.into() });
        }
        if header.class > 1 {
            return Err(LayoutError::Unknown { structure: NAME, what: "class", found: header.class.into() });
        }
        if header.reserved.get() != 0 || padding.iter().any(|byte| *byte != 0) {
            return field("reserved", 1);
        }
        if header.hlc.get() % 2 != 0 {
            return field("HLC (odd)", header.hlc.get());
        }
        let mut cursor = Cursor { rest, whole: length };
        let origin = if header.flags & FLAG_ORIGIN == 0 {
            None
        } else {
            let raw: RawOrigin = cursor.take()?;
            Some(Origin { client: raw.client.get(), sequence: raw.sequence.get(), floor: raw.floor.get() })
        };
        let result = if header.flags & FLAG_RESULT == 0 {
            None
        } else {
            let raw: RawResult = cursor.take()?;
            Some(OperationResult {
                status: raw.status.get(),
                flags: raw.flags.get(),
                inode: raw.inode.get(),
                version: raw.version.get(),
            })
        };
        let data = if header.flags & FLAG_DATA == 0 { Vec::new() } else { objects(&mut cursor)? };
        let record = Self {
            kind: header.kind.get(),
            local: header.class == 1,
            ignorable: header.flags & FLAG_IGNORABLE != 0,
            hlc: Hlc(header.hlc.get()),
            territory: header.territory.get(),
            origin,
            result,
            data,
            body: cursor.rest.to_vec(),
        };
        Ok((record, taken))
    }
}

fn objects(cursor: &mut Cursor<'_>) -> Result<Vec<NamedObject>, LayoutError> {
    let table: RawTable = cursor.take()?;
    if table.count.get() == 0 || table.reserved.get() != 0 {
        return field("data table", table.count.get().into());
    }
    let mut objects = Vec::new();
    for _ in 0..table.count.get() {
        let raw: RawObject = cursor.take()?;
        let stored_bytes = raw.stored_bytes.get();
        if raw.oid.get() == 0 {
            return field("oid", 0);
        }
        if stored_bytes == 0 || !stored_bytes.is_multiple_of(crate::UNIT) {
            return field("stored bytes", stored_bytes.into());
        }
        if raw.blocks.get() != stored_bytes.div_ceil(crate::BLOCK) {
            return field("checksums", raw.blocks.get().into());
        }
        let mut crcs = Vec::new();
        for _ in 0..raw.blocks.get() {
            crcs.push(cursor.take::<U32>()?.get());
        }
        if crcs.len() % 2 == 1 && cursor.take::<U32>()?.get() != 0 {
            return field("reserved", 1);
        }
        let extends = Some(Oid(raw.extends.get())).filter(|oid| !oid.is_none());
        objects.push(NamedObject { oid: Oid(raw.oid.get()), extends, stored_bytes, crcs });
    }
    Ok(objects)
}

/// For the documentation; see [`crate::fields`].
pub(crate) const RECORD_LAYOUTS: &[Structure] = &[
    structure!("record header", RawHeader { length, kind, class, flags, hlc, crc, reserved, territory }),
    structure!("record origin", RawOrigin { client, sequence, floor }),
    structure!("record result", RawResult { status, flags, inode, version }),
    structure!("record data table", RawTable { count, reserved }),
    structure!("record data object", RawObject { oid, extends, stored_bytes, blocks }),
];
