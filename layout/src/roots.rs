//! The roots object: the client's state as a checkpoint publishes it, written twice into a segment, so that a scan finds the newest.
//!
//! ```text
//! | header 56 | reference 32 ... | references to what is copied 32 ... | client bytes | zeros to 512 | copies of nodes ... |
//! ```
//!
//! Without the nodes at the top nothing of a tree can be found. So those that the references name, and those that these nodes refer to, are here once more, byte for
//! byte, as far as they fit into [`COPIES_BYTES_MAX`]: with the two copies of this object there are three of each.

use crate::fields::{Structure, structure};
use crate::node::edges;
use crate::{CLIENT_TAG_BYTES, ClientTag, Hlc, LayoutError, Lsn, Reference, ReferenceKind, UNIT};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const STRUCTURE: &str = "roots object";
/// "EVRT".
pub const MAGIC: u32 = u32::from_le_bytes(*b"EVRT");
/// The roots and what they refer to.
const COPIED_LEVELS: usize = 2;
/// Most bytes of copies of nodes.
pub const COPIES_BYTES_MAX: usize = 32 << 10;
/// Most client bytes.
pub const BLOB_BYTES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    format: U32,
    checkpoint: U64,
    freeze: U64,
    hlc: U64,
    references: U32,
    blob_bytes: U32,
    copies: U32,
    reserved: U32,
    client: [u8; CLIENT_TAG_BYTES],
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const HEADER_BYTES: usize = 56;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootsObject {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// First LSN that it does not contain.
    pub freeze: Lsn,
    /// Every birth in it is at most this.
    pub hlc: Hlc,
    /// Whose they are, so that a scan of the segments knows it too.
    pub client: ClientTag,
    /// Every one is a root edge.
    pub references: Vec<Reference>,
    /// Client bytes.
    pub blob: Vec<u8>,
    /// Nodes at the top of the trees, with their stored bytes.
    pub copies: Vec<(Reference, Vec<u8>)>,
}

impl RootsObject {
    /// The object, padded with zeros to a unit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let small = |value: usize| U32::new(u32::try_from(value).unwrap_or(u32::MAX));
        let raw = RawHeader {
            magic: MAGIC.into(),
            format: 1.into(),
            checkpoint: self.checkpoint.into(),
            freeze: self.freeze.0.into(),
            hlc: self.hlc.0.into(),
            references: small(self.references.len()),
            blob_bytes: small(self.blob.len()),
            copies: small(self.copies.len()),
            reserved: 0.into(),
            client: self.client.encode(),
        };
        let mut out = raw.as_bytes().to_vec();
        for reference in &self.references {
            out.extend_from_slice(&reference.encode());
        }
        for (reference, _) in &self.copies {
            out.extend_from_slice(&reference.encode());
        }
        out.extend_from_slice(&self.blob);
        out.resize(out.len().next_multiple_of(UNIT as usize), 0);
        self.copies.iter().for_each(|(_, copy)| out.extend_from_slice(copy));
        out
    }

    /// Adds copies of the nodes at the top, as far as they fit; `read` gives a node's stored bytes, or none if it cannot be read.
    #[must_use]
    pub fn with_copies(mut self, mut read: impl FnMut(&Reference) -> Option<Vec<u8>>) -> Self {
        self.copies.clear();
        let mut left = COPIES_BYTES_MAX;
        let mut level = self.references.clone();
        for _ in 0..COPIED_LEVELS {
            let mut below = Vec::new();
            for reference in &level {
                let length = reference.stored_bytes as usize;
                let known = self.copies.iter().any(|(copied, _)| copied.oid == reference.oid);
                if reference.kind != ReferenceKind::Node || length > left || known {
                    continue;
                }
                let Some(bytes) = read(reference).filter(|bytes| bytes.len() == length) else { continue };
                below.extend(edges(&bytes).unwrap_or_default());
                left -= length;
                self.copies.push((*reference, bytes));
            }
            level = below;
        }
        self
    }

    /// From stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let short = |expected| LayoutError::Short { structure: STRUCTURE, expected, found: bytes.len() };
        let field = |field, found| LayoutError::Field { structure: STRUCTURE, field, found };
        let (raw, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| short(HEADER_BYTES))?;
        if raw.magic.get() != MAGIC {
            return Err(LayoutError::Magic {
                structure: STRUCTURE,
                expected: MAGIC.into(),
                found: raw.magic.get().into(),
            });
        }
        if raw.format.get() != 1 {
            return Err(LayoutError::Unknown { structure: STRUCTURE, what: "format", found: raw.format.get().into() });
        }
        if raw.reserved.get() != 0 {
            return Err(field("reserved", raw.reserved.get().into()));
        }
        let table = raw.references.get() as usize * Reference::BYTES;
        let (table, rest) = rest.split_at_checked(table).ok_or_else(|| short(table))?;
        let references = decode_all(table)?;
        let table = raw.copies.get() as usize * Reference::BYTES;
        let (table, rest) = rest.split_at_checked(table).ok_or_else(|| short(table))?;
        let copied = decode_all(table)?;
        let blob = raw.blob_bytes.get() as usize;
        let (blob, rest) = rest.split_at_checked(blob).ok_or_else(|| short(blob))?;
        if blob.len() > BLOB_BYTES_MAX {
            return Err(field("client bytes", blob.len() as u64));
        }
        let padding = (bytes.len() - rest.len()).next_multiple_of(UNIT as usize) - (bytes.len() - rest.len());
        let (zeros, mut rest) = rest.split_at_checked(padding).ok_or_else(|| short(padding))?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(field("padding", zeros.len() as u64));
        }
        let mut copies = Vec::new();
        let mut left = COPIES_BYTES_MAX;
        for reference in copied {
            let length = reference.stored_bytes as usize;
            let sound = reference.kind == ReferenceKind::Node && length.is_multiple_of(UNIT as usize);
            left = left.checked_sub(length).filter(|_| sound).ok_or_else(|| field("copies", length as u64))?;
            let (copy, after) = rest.split_at_checked(length).ok_or_else(|| short(length))?;
            copies.push((reference, copy.to_vec()));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(field("bytes behind the copies", rest.len() as u64));
        }
        Ok(Self {
            checkpoint: raw.checkpoint.get(),
            freeze: Lsn(raw.freeze.get()),
            hlc: Hlc(raw.hlc.get()),
            client: ClientTag::decode(STRUCTURE, raw.client)?,
            references,
            blob: blob.to_vec(),
            copies,
        })
    }
}

fn decode_all(table: &[u8]) -> Result<Vec<Reference>, LayoutError> {
    table.chunks_exact(Reference::BYTES).map(Reference::decode).collect()
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[structure!(
    "roots header",
    RawHeader { magic, format, checkpoint, freeze, hlc, references, blob_bytes, copies, reserved, client }
)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, Oid, ReferenceKind};
    use proptest::prelude::*;

    fn sample() -> RootsObject {
        let reference = Reference {
            oid: Oid::new(1, 1, 8),
            birth: Hlc(1),
            stored_bytes: 512,
            logical_bytes: 512,
            crc: 0,
            kind: ReferenceKind::Node,
            flags: 0,
            encoding: Encoding::Plain,
        };
        RootsObject {
            checkpoint: 4,
            freeze: Lsn(80),
            hlc: Hlc(6),
            client: ClientTag::FILES,
            references: vec![reference; 3],
            blob: vec![7; 700],
            copies: vec![(reference, vec![5; 512]); 2],
        }
    }

    #[test]
    fn roots_round_trip() {
        for roots in [sample(), RootsObject { copies: Vec::new(), ..sample() }, RootsObject::default()] {
            assert_eq!(RootsObject::decode(&roots.encode()), Ok(roots));
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(damage in proptest::collection::vec((0usize..300, any::<u8>()), 1..8), cut in 0usize..2600) {
            let mut bytes = sample().encode();
            for (at, value) in damage { bytes[at] = value; }
            bytes.truncate(cut);
            let _ = RootsObject::decode(&bytes);
        }
    }
}
