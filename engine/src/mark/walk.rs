//! The walk of a mark: every node of a checkpoint once, and what it refers to in the segments of one pass.

use super::{MarkProgress, REPORT_NODES, Uses, Version, stopped};
use crate::StoreError;
use crate::engine::Engine;
use crate::pace::Pace;
use crate::sabotage::{self, Rule};
use crate::store::Result;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::node::edges;
use envoyfs_layout::system_page::ListPage;
use envoyfs_layout::{LayoutError, Oid, Reference, ReferenceKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{ControlFlow, Range, RangeInclusive};

#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, unit: u32) -> bool {
        let word = unit as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let bit = 1 << (unit % 64);
        let added = *word & bit == 0;
        *word |= bit;
        added
    }
    pub(super) fn extend(&mut self, units: Range<u32>) {
        units.for_each(|unit| {
            self.insert(unit);
        });
    }
    pub(super) fn contains(&self, unit: u32) -> bool {
        self.0.get(unit as usize / 64).is_some_and(|word| word >> (unit % 64) & 1 == 1)
    }
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.0.len() * 64).unwrap_or(u32::MAX)
    }
}

/// What the walk found in one segment.
#[derive(Default)]
pub(super) struct Found {
    /// Objects that something refers to, by slot.
    pub(super) seen: Bits,
    /// References beyond the first.
    pub(super) extra: BTreeMap<u16, i32>,
    /// Units of objects that something refers to.
    pub(super) covered: Bits,
    /// Units that a node of the roots uses: these must live.
    pub(super) used: Bits,
    /// Units that only nodes of the drop queue use: these may live. (What an operation freed in a file that was deleted in the same batch is dead already.)
    pub(super) queue_used: Bits,
    /// Nodes whose count is zero.
    pub(super) queued: BTreeSet<u16>,
}

/// What a walk tells, and asks.
pub(super) struct Watch<'a> {
    pub(super) progress: MarkProgress,
    pub(super) pace: Pace,
    pub(super) tell: &'a mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    /// Whether a writer of a full store waits for the mark: it makes no pauses then.
    pub(super) is_waited_for: &'a dyn Fn() -> bool,
}

impl Watch<'_> {
    /// A node of so many bytes was visited.
    pub(super) fn visited(&mut self, bytes: u32) -> ControlFlow<()> {
        let Self { progress, pace, tell, is_waited_for } = self;
        progress.nodes += 1;
        if progress.nodes.is_multiple_of(REPORT_NODES) {
            tell(progress)?;
        }
        pace.after_unless(*is_waited_for, bytes.into(), || tell(progress))
    }
}

pub(super) struct Pass {
    pub(super) segments: RangeInclusive<u32>,
    pub(super) found: HashMap<u32, Found>,
    pub(super) visited: HashMap<u32, Bits>,
    pub(super) nodes: u64,
    pub(super) objects: u64,
    /// The roots are done: what is found from here on hangs on the drop queue only.
    pub(super) in_queue: bool,
    pub(super) unreadable: Vec<Oid>,
    /// References wanted, of objects with a wrong count.
    pub(super) wanted: BTreeMap<Oid, Option<Reference>>,
}

impl Pass {
    pub(super) fn at(&mut self, oid: Oid) -> Option<&mut Found> {
        self.segments.contains(&oid.segment()).then(|| self.found.entry(oid.segment()).or_default())
    }

    pub(super) fn cover(&mut self, reference: &Reference, used: bool) {
        let start = u32::from(reference.oid.slot());
        let units = start..start + reference.units();
        if let Some(found) = self.at(reference.oid) {
            found.covered.extend(units.clone());
        }
        if used {
            self.using(reference.oid, units);
        }
    }

    pub(super) fn using(&mut self, oid: Oid, units: Range<u32>) {
        let in_queue = self.in_queue;
        if let Some(found) = self.at(oid) {
            if in_queue { &mut found.queue_used } else { &mut found.used }.extend(units);
        }
    }

    pub(super) fn edge(&mut self, reference: &Reference, whole: bool) {
        if let Some(wanted) = self.wanted.get_mut(&reference.oid) {
            *wanted = Some(*reference);
        }
        self.cover(reference, whole);
        let slot = reference.oid.slot();
        let Some(found) = self.at(reference.oid) else { return };
        if found.seen.insert(slot.into()) {
            self.objects += 1;
        } else {
            *found.extra.entry(slot).or_default() += 1;
        }
    }
}

impl Engine {
    /// Visits every node of the checkpoint, and counts what it refers to in some segments.
    pub(super) fn walk(
        &self,
        version: &Version,
        segments: RangeInclusive<u32>,
        wanted: BTreeMap<Oid, Option<Reference>>,
        uses: Option<&Uses<'_>>,
        watch: &mut Watch<'_>,
    ) -> Result<Pass> {
        let mut pass = Pass {
            segments,
            found: HashMap::new(),
            visited: HashMap::new(),
            nodes: 0,
            objects: 0,
            in_queue: false,
            unreadable: Vec::new(),
            wanted,
        };
        version.own.iter().for_each(|reference| pass.cover(reference, true));
        for root in &version.roots {
            pass.edge(root, true);
            self.walk_from(&mut pass, root, uses, watch)?;
        }
        // Nodes of the drop queue: nothing refers to them, but their edges still count.
        pass.in_queue = true;
        let mut place = if sabotage::on(Rule::MarkSkipsDropQueue) { Place::NONE } else { version.queue };
        let mut seen = BTreeSet::new();
        while !place.is_none() {
            let (page, next) = crate::state::pager::list_once(&self.reader, &place, &mut seen)?;
            let ListPage::DropQueue(rows) = page else {
                let found = LayoutError::Field { structure: "list page", field: "list", found: 1 };
                return Err(StoreError::Structure { structure: "drop queue", offset: 0, source: found });
            };
            for row in rows {
                self.walk_queued(&mut pass, &row, uses, watch)?;
            }
            place = next;
        }
        // Those that could not be read when they were worked off are not walked, also if they can be read by now: what only they lead to is found as a leak, and they leave their list.
        Ok(pass)
    }

    fn walk_queued(
        &self,
        pass: &mut Pass,
        row: &Reference,
        uses: Option<&Uses<'_>>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        pass.cover(row, true);
        if let Some(found) = pass.at(row.oid) {
            found.queued.insert(row.oid.slot());
        }
        self.walk_from(pass, row, uses, watch)
    }

    fn walk_from(
        &self,
        pass: &mut Pass,
        root: &Reference,
        uses: Option<&Uses<'_>>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut stack = vec![*root];
        while let Some(node) = stack.pop() {
            if node.kind != ReferenceKind::Node
                || !pass.visited.entry(node.oid.segment()).or_default().insert(node.oid.slot().into())
            {
                continue;
            }
            if self.mark.lock().given_up {
                return Err(StoreError::Refused("the mark was given up".into()));
            }
            pass.nodes += 1;
            self.metrics.mark.nodes.increment();
            if watch.visited(node.stored_bytes).is_break() {
                return Err(stopped());
            }
            let read = self.reader.object(&node).and_then(|bytes| {
                let damaged = |what| StoreError::Damaged { oid: node.oid, offset: 0, what };
                let edges = edges(&bytes).map_err(damaged)?;
                if let Some(uses) = uses {
                    uses(&node, &bytes, &mut |oid, units| {
                        let start = u32::from(oid.slot());
                        pass.using(oid, start + units.start..start + units.end);
                    })
                    .map_err(damaged)?;
                }
                Ok(edges)
            });
            match read {
                Ok(edges) => {
                    for edge in &edges {
                        pass.edge(edge, edge.kind == ReferenceKind::Node || uses.is_none());
                        if edge.kind == ReferenceKind::Node {
                            stack.push(*edge);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the mark cannot read a node");
                    pass.unreadable.push(node.oid);
                }
            }
        }
        Ok(())
    }
}
