//! Territories: the record of a subtree with one owner, and the client's part of a checkpoint's roots.
//!
//! ```text
//! territory record, 512 bytes:
//! | territory 8 | parent 8 | parent volume hint 2 | kind 1 | flags 1 | moves 4 | view 4 | reserved 4 | realm 8 | root inode 8 | inherited share 8 | links share 8 |
//! | inode chunks 4 x {first 8, count 8} | totals 32 | last HLC 8 | arrived HLC 8 | policy {pin volume 2, bits 1, reserved 5} | references present 1 | reserved 7 |
//! | references 5 x 32: root, orphan table, link shards, renamed while open, imports (zeros when absent) | reserved to 512 |
//! value of its item: record 512, view 1, then the view's realm fields when "view" is 1.
//! references of its item: those present in the record, in order, then those of the view's realm entry.
//! ```

use crate::codec::{Reader, Writer};
use crate::inode::References;
use crate::{Hlc, LayoutError, RealmEntry, Reference, Totals};

const STRUCTURE: &str = "territory record";

/// Number of the territory that mkfs makes.
pub const TERRITORY_ROOT: u64 = 1;

/// What a territory's root is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TerritoryKind {
    /// A directory.
    #[default]
    Directory,
    /// One file.
    File,
}

/// Inode numbers handed to a territory and not used yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeChunk {
    /// First free number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What administrators fix about a territory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerritoryPolicy {
    /// Volume that it must stay in, 0 for any.
    pub pin_volume: u16,
    /// It is not split by itself.
    pub no_split: bool,
    /// It is not moved by itself.
    pub no_move: bool,
}

/// A subtree with one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerritoryRecord {
    /// Number: birth volume 16 bits, counter 48.
    pub territory: u64,
    /// Territory around it, 0 for a view's root.
    pub parent: u64,
    /// Where the parent probably is.
    pub parent_volume: u16,
    /// Directory or file.
    pub kind: TerritoryKind,
    /// Serves nobody: being moved.
    pub closed: bool,
    /// Serves readers only.
    pub read_only: bool,
    /// Must stay where it is.
    pub pinned: bool,
    /// How often it changed its volume.
    pub moves: u32,
    /// View that it belongs to.
    pub view_number: u32,
    /// Realm of its root.
    pub realm: u64,
    /// Inode number of its root.
    pub root_inode: u64,
    /// Largest share time on the path above its root.
    pub inherited_share: Hlc,
    /// Share time of its link shard.
    pub links_share: Hlc,
    /// Inode numbers it may still hand out.
    pub chunks: [InodeChunk; 4],
    /// Sums below.
    pub totals: Totals,
    /// HLC of the last change.
    pub last_hlc: Hlc,
    /// HLC of its arrival in this volume.
    pub arrived_hlc: Hlc,
    /// What administrators fixed.
    pub policy: TerritoryPolicy,
    /// Root of its tree; absent in a view's root territory, where the realm entry has it.
    pub root: Option<Reference>,
    /// Orphan table; absent while orphans are in the realm table.
    pub orphans: Option<Reference>,
    /// Link shards; absent while links are in the realm's table.
    pub link_shards: Option<Reference>,
    /// Files renamed while open by another host.
    pub renamed: Option<Reference>,
    /// Objects held in other volumes.
    pub imports: Option<Reference>,
    /// The view's realm, in the territory of a view's root.
    pub view: Option<RealmEntry>,
}

impl TerritoryRecord {
    /// Bytes on disk, without the view's realm entry.
    pub const BYTES: usize = 512;

    /// Value and references of its item.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<Reference>), LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        out.u64(self.territory);
        out.u64(self.parent);
        out.u16(self.parent_volume);
        out.u8(match self.kind {
            TerritoryKind::Directory => 0,
            TerritoryKind::File => 1,
        });
        out.u8(bits(&[self.closed, self.read_only, self.pinned]));
        out.u32(self.moves);
        out.u32(self.view_number);
        out.zeros(4);
        out.u64(self.realm);
        out.u64(self.root_inode);
        out.hlc(self.inherited_share);
        out.hlc(self.links_share);
        for chunk in &self.chunks {
            out.u64(chunk.first);
            out.u64(chunk.count);
        }
        out.totals(&self.totals);
        out.hlc(self.last_hlc);
        out.hlc(self.arrived_hlc);
        out.u16(self.policy.pin_volume);
        out.u8(bits(&[self.policy.no_split, self.policy.no_move]));
        out.zeros(5);
        let all = [self.root, self.orphans, self.link_shards, self.renamed, self.imports];
        out.u8(bits(&all.map(|reference| reference.is_some())));
        out.zeros(7);
        for reference in all {
            out.raw(&reference.map_or([0; Reference::BYTES], |reference| reference.encode()));
        }
        out.zeros(Self::BYTES - FIXED_BYTES);
        let mut references: Vec<Reference> = all.into_iter().flatten().collect();
        out.flag(self.view.is_some());
        if let Some(view) = &self.view {
            view.write(&mut out, &mut references);
        }
        Ok((out.finish()?, references))
    }
    /// From the value and references of its item.
    pub fn decode(value: &[u8], references: &[Reference]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, value);
        let mut references = References::new(references);
        let mut record = Self { territory: from.u64()?, parent: from.u64()?, ..Self::default() };
        record.parent_volume = from.u16()?;
        record.kind = match from.u8()? {
            0 => TerritoryKind::Directory,
            1 => TerritoryKind::File,
            other => return Err(from.unknown("kind", other.into())),
        };
        [record.closed, record.read_only, record.pinned] = read_bits(&mut from, "flags")?;
        record.moves = from.u32()?;
        record.view_number = from.u32()?;
        from.zeros(4)?;
        record.realm = from.u64()?;
        record.root_inode = from.u64()?;
        record.inherited_share = from.hlc()?;
        record.links_share = from.hlc()?;
        for chunk in &mut record.chunks {
            *chunk = InodeChunk { first: from.u64()?, count: from.u64()? };
        }
        record.totals = from.totals()?;
        record.last_hlc = from.hlc()?;
        record.arrived_hlc = from.hlc()?;
        record.policy.pin_volume = from.u16()?;
        [record.policy.no_split, record.policy.no_move] = read_bits(&mut from, "policy")?;
        from.zeros(5)?;
        let present: [bool; 5] = read_bits(&mut from, "references present")?;
        from.zeros(7)?;
        let all =
            [&mut record.root, &mut record.orphans, &mut record.link_shards, &mut record.renamed, &mut record.imports];
        for (present, field) in present.into_iter().zip(all) {
            if !present {
                from.zeros(Reference::BYTES)?;
                continue;
            }
            let reference = Reference::decode(from.take(Reference::BYTES)?)?;
            if reference != references.take(STRUCTURE)? {
                return Err(from.field("reference", reference.oid.0));
            }
            *field = Some(reference);
        }
        from.zeros(Self::BYTES - FIXED_BYTES)?;
        if from.flag("view")? {
            record.view = Some(RealmEntry::read(&mut from, &mut references)?);
        }
        from.end()?;
        references.end(STRUCTURE)?;
        Ok(record)
    }
}

/// Bytes up to and with the references: 80 + 4 x 16 + 32 + 16 + 8 + 8 + 5 x 32.
const FIXED_BYTES: usize = 8 + 8 + 8 + 8 + 4 * 8 + 4 * 16 + Totals::BYTES + 2 * 8 + 8 + 8 + 5 * Reference::BYTES;
const _: () = assert!(FIXED_BYTES <= TerritoryRecord::BYTES);

fn bits(all: &[bool]) -> u8 {
    all.iter().rev().fold(0, |bits, bit| bits << 1 | u8::from(*bit))
}

fn read_bits<const N: usize>(from: &mut Reader<'_>, field: &'static str) -> Result<[bool; N], LayoutError> {
    let mut rest = from.u8()?;
    let found = rest;
    let mut out = [false; N];
    for bit in &mut out {
        *bit = rest & 1 == 1;
        rest >>= 1;
    }
    if rest == 0 { Ok(out) } else { Err(from.unknown(field, found.into())) }
}

/// The client's roots in a checkpoint: the blob says which reference is which.
///
/// ```text
/// | magic "EVRT" 4 | version 2 | count 2 | role 1 each (1 territory table, 2 realm table) |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRoots {
    /// Root of the territory table.
    pub territory_table: Reference,
    /// Root of the realm table.
    pub realm_table: Reference,
}

impl ClientRoots {
    const STRUCTURE: &'static str = "client roots";
    const BLOB: [u8; 10] = *b"EVRT\x01\x00\x02\x00\x01\x02";

    /// Blob and references, as the `Roots` of the engine take them.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Vec<Reference>) {
        (Self::BLOB.to_vec(), vec![self.territory_table, self.realm_table])
    }
    /// From blob and references.
    pub fn decode(blob: &[u8], references: &[Reference]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(Self::STRUCTURE, blob);
        let magic = from.u32()?;
        let expected = u32::from_le_bytes(*b"EVRT");
        if magic != expected {
            return Err(LayoutError::Magic {
                structure: Self::STRUCTURE,
                expected: expected.into(),
                found: magic.into(),
            });
        }
        let version = from.u16()?;
        if version != 1 {
            return Err(from.unknown("version", version.into()));
        }
        let count = from.u16()?;
        if count != 2 {
            return Err(from.field("count", count.into()));
        }
        for role in 1..=2 {
            let found = from.u8()?;
            if found != role {
                return Err(from.unknown("role", found.into()));
            }
        }
        from.end()?;
        let mut references = References::new(references);
        let roots =
            Self { territory_table: references.take(Self::STRUCTURE)?, realm_table: references.take(Self::STRUCTURE)? };
        references.end(Self::STRUCTURE)?;
        Ok(roots)
    }
}
