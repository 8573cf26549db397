//! `inspect superblock` and `inspect roots`: what a mount starts from.

use super::describe;
use super::store::{Copy, Found, Store};
use super::tree::{Fields, Tree, error};
use anyhow::Result;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::superblock::{Barrier, Superblock, device_cache};
use envoyfs_layout::{ClientRoots, Hlc, Reference, checksum};

/// The four copies, which of them rules and why, and what it says.
pub fn superblock(store: &Store) -> Tree {
    let copies = store.copies.iter().enumerate().map(|(index, copy)| one_copy(store, index, copy));
    let mut fields = vec![("copies", Tree::List(copies.collect())), ("rule", rule(store).into())];
    if let Some(superblock) = &store.superblock {
        fields.extend(geometry(store, superblock));
    }
    if let Ok(directory) = store.directory() {
        let entry = &directory.entry;
        let (bounds, totals) = (&entry.bounds, &entry.totals);
        fields.push((
            "volume",
            Tree::Map(vec![
                ("volume", Tree::Id(entry.volume.into())),
                ("uuid", uuid(entry.uuid)),
                ("writer_epoch", entry.writer_epoch.into()),
                ("promised_epoch", entry.promised_epoch.into()),
                ("generation", entry.ring_generation.into()),
                ("checkpoint", entry.checkpoint.number.into()),
                ("checkpoint_hlc", entry.checkpoint_hlc.into()),
                ("freeze_lsn", entry.checkpoint.freeze.into()),
                ("cuts", entry.cuts.len().into()),
                ("merged_through", entry.merged_through.into()),
                ("live_bytes", Tree::Bytes(totals.live_units * 512)),
                ("shared_objects", totals.shared_objects.into()),
                ("drop_queue_objects", totals.drop_queue_objects.into()),
                ("segments", totals.segments.into()),
                ("segment_bound", bounds.segment.into()),
                ("inode_bound", bounds.inode.into()),
                ("realm_bound", bounds.realm.into()),
                ("territory_bound", bounds.territory.into()),
            ]),
        ));
    }
    Tree::Map(fields)
}

fn one_copy(store: &Store, index: usize, copy: &Copy) -> Tree {
    let newest = store.superblock.as_ref();
    let (sequence, state) = match &copy.found {
        Err(why) => (Tree::None, why.clone()),
        Ok(found) if Some(found) == newest => (found.sequence.into(), "rules".into()),
        Ok(found) => {
            let behind = newest.map_or(0, |newest| newest.sequence.saturating_sub(found.sequence));
            let state = match behind {
                0 => "whole, but not the one that rules".into(),
                behind => format!("{behind} behind"),
            };
            (found.sequence.into(), state)
        }
    };
    Tree::Map(vec![
        ("copy", index.into()),
        ("offset", copy.position.into()),
        ("sequence", sequence),
        ("state", state.into()),
    ])
}

/// Why the superblock that rules does (INV-23).
fn rule(store: &Store) -> String {
    let Some(rules) = &store.superblock else { return "no copy is whole: the store does not open".into() };
    let valid = || store.copies.iter().filter_map(|copy| copy.found.as_ref().ok());
    let holders = valid().filter(|copy| *copy == rules).count();
    let sequence = rules.sequence;
    if holders >= 2 {
        return format!("sequence {sequence} is the highest that two copies hold ({holders} do)");
    }
    let attested = valid().any(|copy| copy.sequence.wrapping_add(1) == sequence && rules.predecessor == copy.hash());
    if attested {
        return format!("sequence {sequence} is held by one copy, and another holds the predecessor that it names");
    }
    format!("sequence {sequence} is the newest whole copy; no other attests it")
}

fn uuid(bytes: [u8; 16]) -> Tree {
    Tree::Text(uuid::Uuid::from_bytes(bytes).to_string())
}

fn geometry(store: &Store, superblock: &Superblock) -> Fields {
    let copies = |copies: &[Found]| {
        let copies = copies.iter().map(|(position, found)| {
            let state = found.as_ref().map_or_else(Clone::clone, |()| "whole".to_string());
            Tree::Map(vec![("offset", (*position).into()), ("state", state.into())])
        });
        Tree::List(copies.collect())
    };
    let formatted = u64::try_from(superblock.format_ns / 1_000_000).unwrap_or(0);
    vec![
        ("label", superblock.label().into()),
        ("identity", uuid(superblock.identity)),
        ("seed", uuid(superblock.seed)),
        ("formatted", Tree::Clock(Hlc::from_milliseconds(formatted))),
        ("hlc_bound", superblock.hlc_bound.into()),
        ("size_bytes", Tree::Bytes(superblock.size)),
        ("device_bytes", Tree::Bytes(store.source.size_bytes())),
        ("logical_block_bytes", Tree::Bytes(superblock.logical_block.into())),
        ("segment_bytes", Tree::Bytes(superblock.segment_bytes.into())),
        ("containers", superblock.containers.into()),
        ("ring_offset", superblock.ring_offset.into()),
        ("ring_bytes", Tree::Bytes(superblock.ring_bytes)),
        ("area_a_offset", superblock.area_a.into()),
        ("area_b_offset", superblock.area_b.into()),
        ("area_slot_bytes", Tree::Bytes(superblock.area_slot_bytes)),
        ("segments_offset", superblock.segments_offset.into()),
        ("barrier", barrier(superblock.barrier).into()),
        ("write_cache_at_format", write_cache(superblock.device_cache)),
        ("compatible_features", Tree::Hex(superblock.compatible)),
        ("read_only_features", Tree::Hex(superblock.read_only_compatible)),
        ("incompatible_features", Tree::Hex(superblock.incompatible)),
        ("directory_slot", u64::from(superblock.system_slot).into()),
        ("directory_copies", copies(&store.directories)),
        ("table_copies", copies(&store.tables)),
    ]
}

/// How what is written becomes durable, as mkfs measured it to be best.
const fn barrier(barrier: Barrier) -> &'static str {
    match barrier {
        Barrier::Flush => "flush",
        Barrier::ForcedUnitAccess => "durable writes",
        Barrier::WriteThrough => "write-through",
    }
}

/// What the system said about the device when it was formatted.
fn write_cache(bits: u8) -> Tree {
    let has = |bit: u8| bits & bit != 0;
    if !has(device_cache::KNOWN) {
        return Tree::None;
    }
    Tree::Map(vec![
        ("volatile", has(device_cache::VOLATILE).into()),
        ("forced_unit_access", has(device_cache::FORCED_UNIT_ACCESS).into()),
    ])
}

/// The client's roots: both copies.
///
/// # Errors
/// Superblock or volume directory cannot be read.
pub fn roots(store: &Store) -> Result<Tree> {
    let entry = &store.directory()?.entry;
    let copies = [entry.roots, entry.roots_twin].into_iter().flatten().map(|copy| {
        let found = read_roots(store, &copy);
        let state = found.as_ref().map_or_else(Clone::clone, |_| "whole".to_string());
        if let Err(why) = &found {
            store.problem(format!("roots object {}: {why}", copy.oid));
        }
        (
            Tree::Map(vec![
                ("oid", copy.oid.into()),
                ("stored_bytes", Tree::Bytes(copy.stored_bytes.into())),
                ("state", state.into()),
            ]),
            found.ok(),
        )
    });
    let (shown, found): (Vec<Tree>, Vec<Option<RootsObject>>) = copies.unzip();
    let mut fields = vec![("checkpoint", entry.checkpoint.number.into()), ("copies", Tree::List(shown))];
    if let Some(roots) = found.into_iter().flatten().next() {
        fields.extend([
            ("freeze_lsn", roots.freeze.into()),
            ("hlc", roots.hlc.into()),
            ("references", Tree::List(roots.references.iter().map(describe::reference).collect())),
        ]);
        let trees = ClientRoots::decode(&roots.blob, &roots.references).map(|client| {
            Tree::Map(vec![
                ("territory_table", client.territory_table.oid.into()),
                ("realm_table", client.realm_table.oid.into()),
            ])
        });
        fields.push(("trees", trees.unwrap_or_else(error)));
    }
    Ok(Tree::Map(fields))
}

/// A copy of the roots object, verified.
///
/// # Errors
/// What is wrong with it.
pub fn read_roots(store: &Store, copy: &Reference) -> Result<RootsObject, String> {
    let bytes = store.object(copy.oid, copy.stored_bytes)?;
    let found = checksum::crc32c(&bytes);
    if found != copy.crc {
        return Err(format!("checksum {found:#010x}, expected {:#010x}", copy.crc));
    }
    RootsObject::decode(&bytes).map_err(|error| error.to_string())
}

/// The root edges of the published checkpoint, from the first copy that is whole.
///
/// # Errors
/// Superblock or volume directory cannot be read.
pub fn root_references(store: &Store) -> Result<Vec<Reference>> {
    let entry = &store.directory()?.entry;
    for copy in [entry.roots, entry.roots_twin].into_iter().flatten() {
        match read_roots(store, &copy) {
            Ok(roots) => return Ok(roots.references),
            Err(why) => store.problem(format!("roots object {}: {why}", copy.oid)),
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mkfs_found_is_named() {
        let names = [Barrier::Flush, Barrier::ForcedUnitAccess, Barrier::WriteThrough].map(barrier);
        assert_eq!(names, ["flush", "durable writes", "write-through"]);
        let said = |volatile: bool, forced: bool| {
            Tree::Map(vec![("volatile", volatile.into()), ("forced_unit_access", forced.into())])
        };
        let bits = |bits: &[u8]| write_cache(bits.iter().sum());
        assert_eq!(bits(&[]), Tree::None);
        // Nothing was asked: whatever else is set says nothing.
        assert_eq!(bits(&[device_cache::VOLATILE]), Tree::None);
        assert_eq!(bits(&[device_cache::KNOWN]), said(false, false));
        assert_eq!(bits(&[device_cache::KNOWN, device_cache::VOLATILE]), said(true, false));
        assert_eq!(bits(&[device_cache::ALL]), said(true, true));
    }
}
