//! The roots object, in both copies, and the tables that it leads to.

use super::findings;
use super::report::Report;
use super::source::Source;
use super::space::{ReadError, Space};
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::{ClientRoots, Reference, checksum};

/// What the client's roots are.
#[derive(Debug)]
pub struct Roots {
    /// Every one is a root edge.
    pub references: Vec<Reference>,
    /// Trees, where the client's bytes say what they are.
    pub trees: Vec<(Reference, TreeKind, &'static str)>,
}

/// Reads both copies. `None`: a fatal finding was added. A store without a checkpoint has no roots, and that is well.
pub fn read(source: &Source, entry: &VolumeEntry, space: &mut Space, report: &mut Report) -> Option<Roots> {
    let copies: Vec<Reference> = [entry.roots, entry.roots_twin].into_iter().flatten().collect();
    if copies.is_empty() {
        return Some(Roots { references: Vec::new(), trees: Vec::new() });
    }
    let mut good = None;
    for copy in &copies {
        space.mark_used(copy);
        space.mark_reached(copy.oid, 0..copy.units());
        match read_copy(source, space, copy) {
            Ok(roots) => good = good.or(Some(roots)),
            Err(error) => report.add(findings::ROOTS, format_args!("roots object {}", copy.oid), error),
        }
    }
    let Some(roots) = good else {
        report.add(findings::NO_ROOTS, "roots", "");
        return None;
    };
    let trees = match ClientRoots::decode(&roots.blob, &roots.references) {
        Ok(client) => vec![
            (client.territory_table, TreeKind::TerritoryTable, "territory table"),
            (client.realm_table, TreeKind::RealmTable, "realm table"),
        ],
        Err(error) => {
            report.add(findings::ITEM, "roots", error);
            Vec::new()
        }
    };
    Some(Roots { references: roots.references, trees })
}

fn read_copy(source: &Source, space: &Space, copy: &Reference) -> Result<RootsObject, String> {
    let mut bytes = vec![0; copy.stored_bytes as usize];
    match space.read(source, copy.oid, 0, &mut bytes) {
        Ok(_) => {}
        Err(ReadError::Unresolved(why)) => return Err(why),
        Err(ReadError::Device(error)) => return Err(error.to_string()),
    }
    let found = checksum::crc32c(&bytes);
    if found != copy.crc {
        return Err(format!("checksum {found:#010x}, expected {:#010x}", copy.crc));
    }
    RootsObject::decode(&bytes).map_err(|error| error.to_string())
}
