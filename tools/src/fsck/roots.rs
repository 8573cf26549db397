//! The roots object, in both copies, and the tables that it leads to.

use super::disk::Disk;
use super::findings;
use super::report::Report;
use super::space::Space;
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::node::{NodeView, TreeKind};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::territory::TERRITORY_ROOT;
use envoyfs_layout::{ClientRoots, ClientTag, LayoutError, Oid, Reference, TerritoryRecord, checksum, key};

/// What the client's roots are.
#[derive(Debug)]
pub struct Roots {
    /// Every one is a root edge.
    pub references: Vec<Reference>,
    /// Trees, where the client's bytes say what they are.
    pub trees: Vec<(Reference, TreeKind, &'static str)>,
    /// Client bytes.
    pub blob: Vec<u8>,
    /// One of the two copies does not verify.
    pub damaged: bool,
    /// Copies of nodes at the top; each has the checksum of the reference to it.
    pub copies: Vec<(Oid, Vec<u8>)>,
}

/// Is it a store of this file system's? One that nobody has mounted yet is as good as one.
pub fn is_of_files(entry: &VolumeEntry) -> bool {
    entry.client == ClientTag::FILES || (!entry.client.is_named() && entry.ring_generation == 0)
}

/// Reads both copies. `None`: a fatal finding was added. A store without a checkpoint has no roots, and that is well.
pub fn read(disk: &Disk, entry: &VolumeEntry, space: &mut Space, report: &mut Report) -> Option<Roots> {
    let copies: Vec<Reference> = [entry.roots, entry.roots_twin].into_iter().flatten().collect();
    if copies.is_empty() {
        return Some(Roots {
            references: Vec::new(),
            trees: Vec::new(),
            blob: Vec::new(),
            damaged: false,
            copies: Vec::new(),
        });
    }
    let mut good = None;
    let mut newer = None;
    let mut damaged = copies.len() < 2;
    for copy in &copies {
        space.hold(copy);
        space.mark_reached(copy.oid, 0..copy.units());
        match read_copy(disk, space, copy) {
            Ok(roots) => good = good.or(Some(roots)),
            Err(Unusable::Newer(error)) => newer = Some(error),
            Err(error) => {
                damaged = true;
                report.add(findings::ROOTS, format_args!("roots object {}", copy.oid), error);
            }
        }
    }
    let Some(roots) = good else {
        match newer {
            Some(error) => report.add(findings::FEATURES, "roots", error),
            None => report.add(findings::NO_ROOTS, "roots", ""),
        }
        return None;
    };
    if !is_of_files(entry) {
        let copies = copies_of(&roots);
        return Some(Roots { references: roots.references, trees: Vec::new(), blob: roots.blob, damaged, copies });
    }
    // Without knowing which trees there are, everything would be unreachable.
    let trees = match trees(&roots) {
        Ok(trees) => trees,
        Err(error) => {
            let newer = matches!(error, LayoutError::Unknown { .. });
            report.add(if newer { findings::FEATURES } else { findings::NO_ROOTS }, "roots", error);
            return None;
        }
    };
    let copies = copies_of(&roots);
    Some(Roots { references: roots.references, trees, blob: roots.blob, damaged, copies })
}

fn copies_of(roots: &RootsObject) -> Vec<(Oid, Vec<u8>)> {
    let good = roots.copies.iter().filter(|(reference, bytes)| checksum::crc32c(bytes) == reference.crc);
    good.map(|(reference, bytes)| (reference.oid, bytes.clone())).collect()
}

fn trees(roots: &RootsObject) -> Result<Vec<(Reference, TreeKind, &'static str)>, LayoutError> {
    let client = ClientRoots::decode(&roots.blob, &roots.references)?;
    Ok(vec![
        (client.territory_table, TreeKind::TerritoryTable, "territory table"),
        (client.realm_table, TreeKind::RealmTable, "realm table"),
    ])
}

/// The roots of a roots object.
///
/// # Errors
/// The client's bytes do not say which trees they are.
pub fn of(roots: &RootsObject) -> Result<Roots, String> {
    let trees = trees(roots).map_err(|error| error.to_string())?;
    let copies = copies_of(roots);
    Ok(Roots { references: roots.references.clone(), trees, blob: roots.blob.clone(), damaged: false, copies })
}

/// Can the view be found from the first node of the table of territories?
///
/// # Errors
/// It is not a node, or the record of the root territory does not decode or is not there.
pub fn leads_to_view(bytes: &[u8]) -> Result<(), LayoutError> {
    let structure = "table of territories";
    let view = NodeView::parse(bytes)?;
    if view.header().level > 0 {
        return Ok(());
    }
    for item in view.items().filter(|item| key::decode_territory(item.key) == Ok(TERRITORY_ROOT)) {
        let references: Vec<Reference> = item.reference_indexes().filter_map(|index| view.reference(index)).collect();
        if TerritoryRecord::decode(item.value, &references)?.view.is_some() {
            return Ok(());
        }
    }
    Err(LayoutError::Field { structure, field: "territories with a view", found: 0 })
}

/// The first copy that verifies.
///
/// # Errors
/// None does: why the last one does not.
pub fn read_pair(disk: &Disk, space: &Space, copies: &[Reference]) -> Result<RootsObject, String> {
    let mut last = "there is no roots object".to_owned();
    for copy in copies {
        match read_copy(disk, space, copy) {
            Ok(roots) => return Ok(roots),
            Err(why) => last = why.to_string(),
        }
    }
    Err(last)
}

/// Why a roots object says nothing.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Damaged(String),
    /// Its bytes are what was written, by a version that knows more.
    #[error("{0}")]
    Newer(LayoutError),
}

fn read_copy(disk: &Disk, space: &Space, copy: &Reference) -> Result<RootsObject, Unusable> {
    let read = space.read_whole(disk, copy.oid, copy.stored_bytes);
    let bytes = read.map_err(|error| Unusable::Damaged(error.to_string()))?;
    let found = checksum::crc32c(&bytes);
    if found != copy.crc {
        return Err(Unusable::Damaged(format!("checksum {found:#010x}, expected {:#010x}", copy.crc)));
    }
    RootsObject::decode(&bytes).map_err(|error| match error {
        LayoutError::Unknown { .. } => Unusable::Newer(error),
        _ => Unusable::Damaged(error.to_string()),
    })
}
