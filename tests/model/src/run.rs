//! One random history: operations, syncs, checkpoints, cleaning, marks, crashes and checks, and at the end the deletion of
//! everything.

use crate::bugs::Bug;
use crate::generator::Surroundings;
use crate::model::{Config, Model};
use crate::objects::{Content, Extent};
use crate::operation::{Operation, Path, split};
use crate::oracle::{OracleEntry, link_names};
use crate::stats::Stats;

/// Runs the history of `seed`. Panics at the first violation, with the seed and the operation.
pub fn run(seed: u64, config: Config) -> Stats {
    let mut m = Model::new(seed, config);
    // operations per checkpoint differ per seed
    let per_checkpoint = 1 + m.generator.rng.below(30);
    let mut live = 0;
    for i in 0..config.operations {
        m.step(live);
        if m.generator.rng.percent(8) {
            m.log_durable = m.log_base + m.log.len(); // fsync
        }
        if m.generator.rng.below(per_checkpoint) == 0 {
            m.step_checkpoint();
        }
        if m.generator.rng.percent(5) {
            m.clean();
        }
        if m.config.mark && m.generator.rng.percent(1) {
            m.mark();
        }
        if m.generator.rng.below(60) == 0 {
            m.crash();
        }
        if m.generator.rng.percent(12) {
            m.check();
            live = m.current.places.len() / 3;
        }
        if i % 400 == 399 || i % 130 == 129 && seed % 4 == 3 {
            m.check();
            m.quiesce();
            if m.config.restamp && seed % 2 == 1 {
                m.lower();
            }
        }
    }
    m.quiesce();
    m.delete_everything();
    m.stats
}

impl Model {
    /// A random operation with its results resolved.
    pub(crate) fn draw(&mut self, live: usize) -> Option<Operation> {
        let surroundings = Surroundings { live, history: &self.durable.history };
        let mut operation = self.generator.operation(&self.oracle, &surroundings)?;
        self.resolve(&mut operation);
        Some(operation)
    }

    /// Direct data gets its extent and its places when the operation is drawn, as a record names them.
    pub(crate) fn resolve(&mut self, operation: &mut Operation) {
        let Operation::Write { blocks, token, direct: true, extent, places, .. } = operation else { return };
        let birth = 2 * self.now + u64::from(!self.bug(Bug::GeqRule));
        let tokens = (0..u64::from(*blocks)).map(|i| *token + i).collect();
        *extent = self.add(Content::Extent(Extent { birth, tokens, direct: true }));
        *places = (0..*blocks).map(|block| self.place(*extent, block)).collect();
    }

    /// Paths below which the operation changes something: every realm on them must be own.
    pub(crate) fn paths_to_adopt(&self, operation: &Operation) -> Vec<Path> {
        let parent = |path: &Path| split(path).0.to_vec();
        match operation {
            Operation::Create { directory, .. }
            | Operation::MakeDirectory { directory, .. }
            | Operation::LinkOrphan { directory, .. }
            | Operation::CloneFile { directory, .. }
            | Operation::Clone { directory, .. }
            | Operation::CloneHistory { directory, .. }
            | Operation::TakeSnapshot { directory, .. } => vec![directory.clone()],
            Operation::Write { file: path, .. }
            | Operation::Punch { file: path, .. }
            | Operation::EmbedLink { file: path }
            | Operation::Unlink { file: path, .. }
            | Operation::UnlinkOpen { file: path, .. }
            | Operation::RemoveDirectory { path }
            | Operation::RemoveTree { path }
            | Operation::Reflink { target: path, .. } => vec![parent(path)],
            Operation::Link { file, directory, .. } => vec![parent(file), directory.clone()],
            Operation::Rename { from, directory, .. } => {
                let mut paths = vec![parent(from), directory.clone()];
                let crosses = self.realm_path(&parent(from)) != self.realm_path(directory);
                if crosses && !self.bug(Bug::AdoptNotOnMove) {
                    paths.push(from.clone()); // a realm that moves to another
                }
                paths
            }
            Operation::DropSnapshot { .. }
            | Operation::TemporaryFile { .. }
            | Operation::CloseOrphan { .. }
            | Operation::Adopt { .. } => vec![],
        }
    }

    fn step(&mut self, live: usize) {
        self.now += 60;
        let Some(operation) = self.draw(live) else { return };
        let after = self.now;
        // ADOPTs come before, with stamps of their own
        self.now -= 59;
        for path in self.paths_to_adopt(&operation) {
            while let Some(outermost) = self.foreign(&path) {
                let realm = self.generator.realm_id();
                self.execute(Operation::Adopt { path: outermost, realm });
                self.now += 1;
            }
        }
        self.now = after;
        self.execute(operation);
    }

    fn step_checkpoint(&mut self) {
        if self.in_flight.is_some() {
            return self.publish();
        }
        self.retain();
        self.freeze(false);
        if self.generator.rng.percent(40) {
            self.check_totals();
            self.publish();
        }
    }

    /// Retention: a counted snapshot of the top, logged just before the freeze; the oldest is dropped first.
    fn retain(&mut self) {
        let retained: Vec<u32> = self.oracle.snapshots.iter().filter(|x| x.1.0.is_empty()).map(|x| *x.0).collect();
        if self.generator.rng.percent(if retained.len() > 3 { 60 } else { 0 }) {
            self.now += 1;
            self.drop_snapshot(retained[0]);
        }
        if self.generator.rng.percent(8) {
            self.now += 1;
            self.stats.retention += 1;
            let snapshot = self.generator.number();
            self.execute(Operation::TakeSnapshot { directory: vec![], snapshot });
        }
    }

    fn drop_snapshot(&mut self, snapshot: u32) {
        let directory = (*self.oracle.snapshots[&snapshot].0).clone();
        self.execute(Operation::DropSnapshot { snapshot, directory, clear_flag: false });
    }

    /// After it nothing may be left but empty roots: no leak at all.
    fn delete_everything(&mut self) {
        let mut names = vec![];
        link_names(&self.oracle.top.root, &mut vec![], &mut names);
        let mut operations: Vec<Operation> =
            names.into_iter().map(|x| Operation::Unlink { file: x.1, other_name: None }).collect();
        for (name, e) in self.oracle.top.root.iter() {
            match e {
                OracleEntry::Link(_) => {}
                OracleEntry::File(_) => {
                    operations.push(Operation::Unlink { file: vec![*name], other_name: None });
                }
                _ => operations.push(Operation::RemoveTree { path: vec![*name] }),
            }
        }
        operations.extend(self.oracle.orphans.keys().map(|orphan| Operation::CloseOrphan { orphan: *orphan }));
        for operation in operations {
            self.now += 1;
            self.execute(operation);
            if self.generator.rng.percent(20) {
                self.freeze(false);
                self.publish();
            }
        }
        // only those of the top are left
        for snapshot in self.oracle.snapshots.keys().copied().collect::<Vec<_>>() {
            self.now += 1;
            self.drop_snapshot(snapshot);
        }
        self.quiesce();
        // root, realm table and (if ever used) the link table, all empty
        let want = self.root_edges(&self.roots()).len();
        if self.current.places.len() != want || !self.oracle.top.links.is_empty() {
            fail!(self, "{} objects left of {}", self.current.places.len(), want)
        }
    }
}
