//! The model's state: objects, what is durable, what is in flight, what operations left for the next checkpoint; and the
//! clock.

use crate::bugs::Bug;
use crate::collections::{Map, Set};
use crate::generator::Generator;
use crate::objects::{Content, Entry, Extent, Node, Object, ObjectId, Roots, Stamp, TOP_REALM, Totals};
use crate::operation::Record;
use crate::oracle::OracleVolume;
use crate::stats::Stats;
use std::collections::VecDeque;

/// How a history runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub bug: Bug,
    /// A node in memory gets a new birth with every change (as designed), or only when it is made.
    pub restamp: bool,
    /// Checkpoint roots are retained by deferred reuse.
    pub history: bool,
    /// The online mark reclaims dead ranges.
    pub mark: bool,
    pub operations: usize,
}

/// A checkpoint root that is retained without counts.
#[derive(Clone)]
pub(crate) struct HistoryRoot {
    pub(crate) roots: Roots,
    pub(crate) stamp: Stamp,
    pub(crate) batch: u32,
    pub(crate) oracle: OracleVolume,
}

/// A block that is freed, but that a retained root may still need.
#[derive(Clone)]
pub(crate) struct DeadBlock {
    pub(crate) object: ObjectId,
    pub(crate) block: u32,
    pub(crate) place: u32,
    pub(crate) birth: Stamp,
    /// The batch that freed it.
    pub(crate) batch: u32,
}

/// What a checkpoint makes durable.
#[derive(Clone)]
pub(crate) struct EngineState {
    pub(crate) batch: u32,
    pub(crate) roots: Roots,
    pub(crate) oracle: OracleVolume,
    /// References beyond the implicit first one.
    pub(crate) counts: Map<ObjectId, i64>,
    pub(crate) freed: Set<ObjectId>,
    pub(crate) freed_ranges: Map<ObjectId, u64>,
    /// Batches of deltas not yet merged.
    pub(crate) queue: VecDeque<Vec<(ObjectId, i64)>>,
    pub(crate) drop_queue: Vec<ObjectId>,
    /// Where each (object, block) is on the device.
    pub(crate) places: Map<(ObjectId, u32), u32>,
    pub(crate) dead: Vec<DeadBlock>,
    pub(crate) history: Vec<HistoryRoot>,
}

/// A frozen checkpoint that is not published yet.
pub(crate) struct InFlight {
    pub(crate) state: EngineState,
    /// Places that may be reused once it is durable.
    pub(crate) release: Vec<u32>,
    /// Records it contains.
    pub(crate) log_end: usize,
}

/// What operations since the last freeze leave to the next batch. The last three serve seeded bugs only.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) freed: Set<ObjectId>,
    pub(crate) freed_ranges: Map<ObjectId, u64>,
    pub(crate) direct: Vec<ObjectId>,
    pub(crate) release: Vec<u32>,
    pub(crate) replaced_shared: Vec<ObjectId>,
    pub(crate) replaced: Vec<(ObjectId, ObjectId, Stamp)>,
    pub(crate) left_leaf: Vec<ObjectId>,
}

/// One volume under a random history.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) seed: u64,
    pub(crate) generator: Generator,
    pub(crate) objects: Vec<Object>,
    /// As of the last freeze.
    pub(crate) current: EngineState,
    /// As of the last publish.
    pub(crate) durable: EngineState,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) pending: Pending,
    /// The volume root's entry, in memory.
    pub(crate) top: Entry,
    /// The realm table's root, in memory.
    pub(crate) table: ObjectId,
    pub(crate) oracle: OracleVolume,
    pub(crate) now: Stamp,
    /// Records from number `log_base` on; those below `log_durable` are flushed.
    pub(crate) log: Vec<Record>,
    pub(crate) log_base: usize,
    pub(crate) log_durable: usize,
    /// What each place of the device holds.
    pub(crate) device: Vec<(ObjectId, u32)>,
    pub(crate) available: Vec<u32>,
    pub(crate) last_batch: u32,
    pub(crate) stats: Stats,
}

impl Model {
    /// A formatted volume: an empty root node and an empty realm table, checkpointed.
    pub(crate) fn new(seed: u64, config: Config) -> Model {
        // object 0 is nobody: reference 0 means none
        let nobody = Object { content: Content::Extent(Extent { birth: 0, tokens: vec![], direct: false }), batch: 1 };
        let top = Entry::Realm {
            share: 0,
            link_share: 0,
            read_only: false,
            root: 0,
            links: 0,
            realm: TOP_REALM,
            home: 0,
            inode: 0,
            has_snapshots: false,
        };
        let state = EngineState {
            batch: 1,
            roots: (top.clone(), 0),
            oracle: OracleVolume::default(),
            counts: Map::default(),
            freed: Set::default(),
            freed_ranges: Map::default(),
            queue: VecDeque::new(),
            drop_queue: vec![],
            places: Map::default(),
            dead: vec![],
            history: vec![],
        };
        let mut m = Model {
            config,
            seed,
            generator: Generator::new(seed, config.bug),
            objects: vec![nobody],
            current: state.clone(),
            durable: state,
            in_flight: None,
            pending: Pending::default(),
            top,
            table: 0,
            oracle: OracleVolume::default(),
            now: 10,
            log: vec![],
            log_base: 0,
            log_durable: 0,
            device: vec![],
            available: vec![],
            last_batch: 1,
            stats: Stats::default(),
        };
        let empty = m.new_node(0, false, vec![]);
        m.table = m.new_node(0, false, vec![]);
        Model::set_root(&mut m.top, empty);
        m.freeze(true);
        m.publish();
        m
    }

    pub(crate) fn bug(&self, b: Bug) -> bool {
        self.config.bug == b
    }

    pub(crate) fn birth_now(&self) -> Stamp {
        if self.bug(Bug::GeqRule) { 2 * self.now } else { 2 * self.now + 1 }
    }

    pub(crate) fn share_now(&self) -> Stamp {
        2 * self.now
    }

    pub(crate) fn is_exclusive(&self, birth: Stamp, path_share: Stamp) -> bool {
        if self.bug(Bug::GeqRule) { birth >= path_share } else { birth > path_share }
    }

    pub(crate) fn node(&self, i: ObjectId) -> &Node {
        match &self.objects[i as usize].content {
            Content::Node(n) => n,
            _ => fail!(self, "not a node {}", i),
        }
    }

    pub(crate) fn node_mut(&mut self, i: ObjectId) -> &mut Node {
        match &mut self.objects[i as usize].content {
            Content::Node(n) => n,
            _ => panic!(),
        }
    }

    pub(crate) fn extent(&self, i: ObjectId) -> &Extent {
        match &self.objects[i as usize].content {
            Content::Extent(n) => n,
            _ => panic!(),
        }
    }

    pub(crate) fn birth(&self, i: ObjectId) -> Stamp {
        match &self.objects[i as usize].content {
            Content::Extent(n) => n.birth,
            Content::Node(n) => n.birth,
        }
    }

    pub(crate) fn add(&mut self, k: Content) -> ObjectId {
        self.objects.push(Object { content: k, batch: 0 });
        (self.objects.len() - 1) as ObjectId
    }

    pub(crate) fn new_node(&mut self, level: u8, file: bool, items: Vec<(u32, Entry)>) -> ObjectId {
        let b = self.birth_now();
        self.stats.newnodes += 1;
        let n = self.add(Content::Node(Node { birth: b, level, file, flags: 0, items, totals: Totals::default() }));
        if !file {
            self.node_mut(n).flags = self.flags_of(n)
        }
        n
    }
}
