//! `inspect graph`: who refers to what, from the published roots or from one object, to a depth; or backwards, by a scan.
//!
//! An edge is a (node, object) pair, as the counts have it (INV-06). A node that was shown before is shown as a line without what is below it.

use super::describe::{item_name, kind_name, tree_name};
use super::object::parse_oid;
use super::regions::root_references;
use super::store::Store;
use super::tree::{Tree, clock};
use anyhow::{Result, ensure};
use envoyfs_layout::node::NodeView;
use envoyfs_layout::{Oid, Reference, ReferenceKind, checksum};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Start at this object instead of the roots.
    #[arg(value_name = "OID", value_parser = parse_oid)]
    oid: Option<Oid>,
    /// How many edges deep.
    #[arg(long, value_name = "N", default_value_t = 4)]
    depth: u32,
    /// Print it for graphviz: inspect IMAGE graph --dot | dot -Tsvg.
    #[arg(long, conflicts_with = "referrers")]
    dot: bool,
    /// Show who refers to OID instead, by a scan of every node.
    #[arg(long, requires = "oid")]
    referrers: bool,
}

/// An edge out of a node: to what, and which items name it.
struct Edge {
    to: Reference,
    names: Vec<String>,
}

/// A node read for its edges.
struct Node {
    tree: &'static str,
    level: u8,
    items: u64,
    edges: Vec<Edge>,
}

/// Reads a node. `crc` as the reference to it says, if there is one.
fn read(store: &Store, reference: &Reference, verify: bool) -> Result<Node, String> {
    let bytes = store.object(reference.oid, reference.stored_bytes)?;
    let found = checksum::crc32c(&bytes);
    if verify && found != reference.crc {
        return Err(format!("checksum {found:#010x}, expected {:#010x}", reference.crc));
    }
    let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
    let header = view.header();
    let mut edges: BTreeMap<Oid, Edge> = BTreeMap::new();
    for to in view.references() {
        edges.entry(to.oid).or_insert(Edge { to, names: Vec::new() });
    }
    let mut items = 0;
    for item in view.items() {
        items += 1;
        for to in item.reference_indexes().filter_map(|index| view.reference(index)) {
            if let Some(edge) = edges.get_mut(&to.oid) {
                edge.names.push(if header.level == 0 { item_name(header.tree, item.key) } else { String::new() });
            }
        }
    }
    Ok(Node { tree: tree_name(header.tree), level: header.level, items, edges: edges.into_values().collect() })
}

/// One step of a walk, parents before children.
struct Step<'a> {
    depth: u32,
    from: Option<Oid>,
    names: &'a [String],
    reference: &'a Reference,
    /// None: an object that is no node, or one that was visited before, or beyond the depth.
    node: Option<Node>,
    again: bool,
}

/// Walks depth first, as long as it is told to go on. A node is read once, or where the depth ends, once more for every smaller depth at which it is met: then there is more below it to show.
fn walk(store: &Store, roots: Vec<Edge>, depth: u32, each: &mut dyn FnMut(&Step<'_>) -> Result<bool>) -> Result<()> {
    let mut seen: HashMap<Oid, u32> = HashMap::new();
    let mut stack: Vec<(u32, Option<Oid>, Edge)> = roots.into_iter().rev().map(|edge| (0, None, edge)).collect();
    while let Some((at, from, edge)) = stack.pop() {
        let is_node = edge.to.kind == ReferenceKind::Node;
        let before = seen.get(&edge.to.oid).copied();
        let again = is_node && before.is_some_and(|before| before <= at || depth == u32::MAX);
        if is_node && !again {
            seen.insert(edge.to.oid, at);
        }
        let node = if is_node && !again && at < depth {
            read(store, &edge.to, from.is_some() || edge.to.crc != 0)
                .map_err(|why| store.problem(format!("node {}: {why}", edge.to.oid)))
                .ok()
        } else {
            None
        };
        let mut step = Step { depth: at, from, names: &edge.names, reference: &edge.to, node, again };
        if !each(&step)? {
            break;
        }
        if let Some(node) = step.node.take() {
            stack.extend(node.edges.into_iter().rev().map(|below| (at + 1, Some(edge.to.oid), below)));
        }
    }
    Ok(())
}

fn start(store: &Store, oid: Option<Oid>) -> Result<Vec<Edge>> {
    let Some(oid) = oid else {
        let names = ["territory table", "realm table"].map(String::from);
        let roots = root_references(store)?.into_iter().enumerate();
        return Ok(roots.map(|(at, to)| Edge { to, names: names.get(at).cloned().into_iter().collect() }).collect());
    };
    let Some(to) = find(store, |reference| reference.oid == oid)? else {
        store.problem(format!("no node that the roots lead to refers to {oid}"));
        return Ok(Vec::new());
    };
    Ok(vec![Edge { to, names: Vec::new() }])
}

/// The first reference that is wanted, by a scan: nothing else has an object's length and checksum.
///
/// # Errors
/// Superblock or volume directory cannot be read.
pub fn find(store: &Store, wanted: impl Fn(&Reference) -> bool) -> Result<Option<Reference>> {
    let mut found = None;
    walk(store, start(store, None)?, u32::MAX, &mut |step| {
        found = Some(*step.reference).filter(|reference| wanted(reference));
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// Shows the graph.
///
/// # Errors
/// Superblock or volume directory cannot be read, or the output is closed.
pub fn show(store: &Store, options: &Options, json: bool) -> Result<()> {
    if let (true, Some(oid)) = (options.referrers, options.oid) {
        return referrers(store, oid, json);
    }
    ensure!(!(options.dot && json), "--dot and --json are two formats; choose one");
    let roots = start(store, options.oid)?;
    let out = &mut std::io::stdout();
    if options.dot {
        writeln!(out, "digraph envoyfs {{\n  node [shape=box, fontname=monospace];")?;
        walk(store, roots, options.depth, &mut |step| {
            let oid = step.reference.oid;
            if !step.again {
                writeln!(out, "  \"{oid}\" [label={:?}];", format!("{oid}\n{}", what(step)))?;
            }
            if let Some(from) = step.from {
                writeln!(out, "  \"{from}\" -> \"{oid}\" [label={:?}];", names(step.names))?;
            }
            Ok(true)
        })?;
        writeln!(out, "}}")?;
        return Ok(());
    }
    if json {
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        let (mut places, mut known) = (HashMap::new(), HashSet::new());
        walk(store, roots, options.depth, &mut |step| {
            if !step.again {
                // Met at a smaller depth there may be more to say of it.
                let place = *places.entry(step.reference.oid).or_insert(nodes.len());
                match nodes.get_mut(place) {
                    Some(node) => *node = object_fields(store, step),
                    None => nodes.push(object_fields(store, step)),
                }
            }
            if !known.insert((step.from, step.reference.oid)) {
                return Ok(true);
            }
            edges.push(Tree::Map(vec![
                ("from", step.from.map_or(Tree::None, Into::into)),
                ("to", step.reference.oid.into()),
                ("names", Tree::List(step.names.iter().map(|name| name.clone().into()).collect())),
            ]));
            Ok(true)
        })?;
        let graph = Tree::Map(vec![("objects", Tree::List(nodes)), ("edges", Tree::List(edges))]);
        writeln!(out, "{}", serde_json::to_string_pretty(&graph)?)?;
        return Ok(());
    }
    walk(store, roots, options.depth, &mut |step| {
        let indent = usize::try_from(step.depth).unwrap_or(usize::MAX).saturating_mul(2);
        let reference = step.reference;
        let mut line = format!("{:indent$}{}  {}", "", reference.oid, what(step));
        let _ = write!(line, "  {}", crate::mkfs::size::Size(reference.stored_bytes.into()));
        match store.count(reference.oid) {
            Some(1) => {}
            Some(count) => {
                let _ = write!(line, "  {count} references");
            }
            None => line.push_str("  NOT LIVE"),
        }
        let _ = write!(line, "  born {}", clock(reference.birth));
        if step.again {
            line.push_str("  (shown above)");
        }
        if !step.names.iter().all(String::is_empty) {
            let _ = write!(line, "  {}", names(step.names));
        }
        writeln!(out, "{line}")?;
        Ok(true)
    })
}

/// At most a few names: an extent may have hundreds of slices in one node.
fn names(all: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut shown: Vec<&str> = all.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    shown.dedup();
    let more = shown.len().saturating_sub(SHOWN);
    shown.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn what(step: &Step<'_>) -> String {
    match &step.node {
        Some(node) if node.level > 0 => format!("{} level {}, {} children", node.tree, node.level, node.items),
        Some(node) => format!("{} leaf, {} items", node.tree, node.items),
        None => kind_name(step.reference.kind).to_string(),
    }
}

fn object_fields(store: &Store, step: &Step<'_>) -> Tree {
    let reference = step.reference;
    let mut fields = vec![
        ("oid", reference.oid.into()),
        ("kind", kind_name(reference.kind).into()),
        ("stored_bytes", Tree::Bytes(reference.stored_bytes.into())),
        ("birth", reference.birth.into()),
        ("count", store.count(reference.oid).map_or(Tree::None, Into::into)),
    ];
    if let Some(node) = &step.node {
        fields.extend([
            ("tree", node.tree.into()),
            ("level", u64::from(node.level).into()),
            ("items", node.items.into()),
        ]);
    }
    Tree::Map(fields)
}

/// Every node that refers to an object.
fn referrers(store: &Store, oid: Oid, json: bool) -> Result<()> {
    let mut found = Vec::new();
    let mut scanned = 0_u64;
    walk(store, start(store, None)?, u32::MAX, &mut |step| {
        scanned += u64::from(step.node.is_some());
        if step.reference.oid == oid {
            found.push(Tree::Map(vec![
                ("from", step.from.map_or("the roots".into(), Into::into)),
                (
                    "names",
                    Tree::List(
                        step.names.iter().filter(|name| !name.is_empty()).map(|name| name.clone().into()).collect(),
                    ),
                ),
            ]));
        }
        Ok(true)
    })?;
    let count = store.count(oid).map_or("not live in the published checkpoint".into(), Into::into);
    let tree = Tree::Map(vec![
        ("oid", oid.into()),
        ("count", count),
        ("nodes_scanned", scanned.into()),
        ("referrers", Tree::List(found)),
    ]);
    super::print(&tree, json)
}
