//! Translates a model's operations into calls of the namespace, with checkpoints, syncs and power failures between and amid them.

use crate::Random;
use crate::sharing::ground::Ground;
use crate::sharing::step::{Contents, Step};
use envoyfs_engine::StoreError;
use envoyfs_layout::Lsn;
use envoyfs_model::operation::name_text;
use envoyfs_model::{FILE_BLOCKS, History, Operation, OracleEntry, OracleVolume, Path, Place, Profile};
use envoyfs_namespace::api::{Context, Error, InodeId, Make, RenameMode, SetAttributes};
use envoyfs_namespace::{Namespace, Options};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(super) const CX: Context = Context::local(0, 0);
/// Inodes that are kept looked up, as a kernel does.
const HELD_MAX: usize = 40;
/// Checkpoints after which every drop queue of such a history must be empty.
const QUIET_CHECKPOINTS: usize = 4000;

/// Why a history stops.
#[derive(Debug)]
pub enum Failure {
    /// The power failed: to be recovered from.
    Power,
    /// The product is wrong.
    Wrong(String),
}

pub(super) type Check<T> = Result<T, Failure>;

pub(super) fn wrong<T>(what: impl Into<String>) -> Check<T> {
    Err(Failure::Wrong(what.into()))
}

/// A step that a power failure may take back.
struct Done {
    step: Option<Step>,
    after: OracleVolume,
    end: Lsn,
    /// It returned without an error.
    certain: bool,
}

pub(super) struct Driver<G> {
    pub(super) random: Random,
    pub(super) ground: G,
    pub(super) ns: Arc<Namespace>,
    /// The value now.
    pub(super) volume: OracleVolume,
    pub(super) contents: Contents,
    /// Open files without a name. Those that a power failure took are missing.
    pub(super) open: BTreeMap<u32, InodeId>,
    history: History,
    done: Vec<Done>,
    acknowledged: Lsn,
    held: VecDeque<InodeId>,
    borrowed: Vec<InodeId>,
    operation: usize,
    trace: bool,
}

fn open_namespace(ground: &impl Ground) -> Result<Arc<Namespace>, Error> {
    let options = Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    Namespace::open(ground.store(), options)
}

impl<G: Ground> Driver<G> {
    pub fn new(ground: G, seed: u64) -> Driver<G> {
        let ns = open_namespace(&ground).expect("a new store");
        let end = ns.sync_point();
        let start = Done { step: None, after: OracleVolume::default(), end, certain: true };
        Driver {
            random: Random::new(seed ^ 0xB07D),
            ground,
            ns,
            volume: OracleVolume::default(),
            contents: Contents::default(),
            open: BTreeMap::new(),
            history: History::new(seed, Profile::first_implementation()),
            done: vec![start],
            acknowledged: end,
            held: VecDeque::new(),
            borrowed: Vec::new(),
            operation: 0,
            trace: std::env::var_os("TRACE").is_some(),
        }
    }

    pub fn operation(&self) -> usize {
        self.operation
    }

    pub fn run(&mut self, operations: usize) -> Check<()> {
        for operation in 0..operations {
            self.operation = operation;
            let (next, after) = self.history.next();
            let after = after.clone();
            self.finish(VecDeque::from([Step::Model(next)]))?;
            // The same value, and shared with the model's.
            self.volume = after;
            self.between()?;
        }
        self.crash()?;
        self.compare(true)?;
        self.quiesce()?;
        self.mark()?;
        self.delete_everything()
    }

    /// After it, not a unit lives that nothing uses.
    fn mark(&mut self) -> Check<()> {
        // One that was asked for before may be in the way.
        for _ in 0..2 {
            self.ground.ask_mark();
            self.quiesce()?;
            self.ground.mark(&mut self.random).or_else(|why| self.judge_text(why))?;
            self.quiesce()?;
        }
        self.ground.check_exactly().or_else(|why| self.judge_text(why))?;
        self.compare(false)
    }

    fn between(&mut self) -> Check<()> {
        self.ground.tick(&mut self.random);
        let what = self.random.index(200);
        let result = match what {
            0..=15 => self.sync(),
            16..=29 => self.checkpoint(),
            30..=45 => self.compare(false),
            46..=70 => self.probe(),
            71..=73 => {
                self.crash()?;
                self.compare(true)
            }
            74..=77 => {
                self.ground.arm(&mut self.random);
                Ok(())
            }
            78 => self.quiesce(),
            79..=80 => {
                self.ground.ask_mark();
                Ok(())
            }
            // Some operations and checkpoints later than the checkpoint that it looks at.
            81..=84 => self.ground.mark(&mut self.random).or_else(|why| self.judge_text(why)),
            _ if self.ground.store().wait_checkpoint(0).is_some() => self.checkpoint(),
            _ => Ok(()),
        };
        match result {
            Err(Failure::Power) => self.crash(),
            other => other,
        }
    }

    /// Does steps until none is left, over power failures.
    fn finish(&mut self, mut steps: VecDeque<Step>) -> Check<()> {
        while let Some(step) = steps.pop_front() {
            if let Some(parts) = self.taken_apart(&step) {
                parts.into_iter().rev().for_each(|part| steps.push_front(part));
                continue;
            }
            match self.perform(&step) {
                Ok(()) => {}
                Err(Failure::Power) => {
                    // Its record may be in the log, or not.
                    let mut after = self.volume.clone();
                    step.apply(&mut after);
                    let end = self.ns.sync_point();
                    self.done.push(Done { step: Some(step), after, end, certain: false });
                    self.recover()?.into_iter().rev().for_each(|step| steps.push_front(step));
                }
                wrong => return wrong,
            }
        }
        Ok(())
    }

    /// The steps of an operation that is more than one record.
    fn taken_apart(&mut self, step: &Step) -> Option<Vec<Step>> {
        let Step::Model(operation) = step else { return None };
        match operation {
            Operation::Write { file, block, blocks, token, direct, .. } => {
                let old = self.volume.file(file);
                let tokens: Vec<u64> = (0..u64::from(*blocks)).map(|i| token + i).collect();
                if *direct {
                    return Some(vec![Step::Blocks { file: file.clone(), block: *block, tokens }]);
                }
                let parts = (*block..).zip(tokens).flat_map(|(block, token)| {
                    let old = old.get(&block).copied().unwrap_or(0);
                    self.contents.in_parts(file, block, old, token)
                });
                Some(parts.collect())
            }
            // There is no call that punches: the end goes, and what was behind the hole comes again.
            Operation::Punch { file, from, to } => {
                let mut steps = vec![Step::Size { file: file.clone(), blocks: *from }];
                steps.extend(self.blocks_of(file, &self.volume.file(file), *to));
                Some(steps)
            }
            Operation::CloneFile { source, directory, name } if self.is_lost(source) => {
                let mut copy: Path = directory.clone();
                copy.push(*name);
                let mut steps = vec![Step::Model(Operation::Create { directory: directory.clone(), name: *name })];
                steps.extend(self.blocks_of(&copy, &self.volume.file(source), 0));
                Some(steps)
            }
            _ => None,
        }
    }

    /// Writes of the blocks of `contents` from `from` on, each run at once.
    fn blocks_of(&self, file: &Path, contents: &BTreeMap<u32, u64>, from: u32) -> Vec<Step> {
        let mut runs: Vec<(u32, Vec<u64>)> = vec![];
        for (block, token) in contents.range(from..FILE_BLOCKS) {
            match runs.last_mut() {
                Some((start, tokens)) if *start + tokens.len() as u32 == *block => tokens.push(*token),
                _ => runs.push((*block, vec![*token])),
            }
        }
        runs.into_iter().map(|(block, tokens)| Step::Blocks { file: file.clone(), block, tokens }).collect()
    }

    /// Is it an open file without a name that a power failure took?
    fn is_lost(&self, path: &Path) -> bool {
        matches!(Place::of(path), Place::Open(orphan) if !self.open.contains_key(&orphan))
    }

    fn perform(&mut self, step: &Step) -> Check<()> {
        let mut tries = 0;
        loop {
            if self.trace {
                println!("  {} {step:?}", self.operation);
            }
            let result = self.call(step);
            self.give_back();
            tries += 1;
            match result {
                Ok(()) => break,
                Err(_) if self.ground.is_dead() => return Err(Failure::Power),
                Err(Error::NoSpace | Error::Store(StoreError::WouldWait { .. })) if tries < 20 => self.checkpoint()?,
                Err(error) => return wrong(format!("{step:?}: {error}")),
            }
        }
        step.apply(&mut self.volume);
        let (after, end) = (self.volume.clone(), self.ns.sync_point());
        self.done.push(Done { step: Some(step.clone()), after, end, certain: true });
        Ok(())
    }

    // ---- calls -------------------------------------------------------------------------------------------------------------

    pub(super) fn lookup(&mut self, parent: InodeId, name: &[u8]) -> Result<InodeId, Error> {
        let id = self.ns.lookup(&CX, parent, name)?.id;
        self.borrowed.push(id);
        Ok(id)
    }

    /// The inode at a path, looked up until [`Self::give_back`].
    pub(super) fn resolve(&mut self, path: &[u32]) -> Result<InodeId, Error> {
        let names = match Place::of(path) {
            Place::Open(orphan) => return self.open.get(&orphan).copied().ok_or(Error::Stale),
            Place::Tree(names) => names,
            Place::InSnapshot { snapshot, names } => {
                let of = self.volume.snapshots[&snapshot].0.clone();
                let above = of.iter().map(|name| name_text(*name));
                above.chain([".snap".into(), snapshot_name(snapshot)]).chain(names).collect()
            }
        };
        let mut id = InodeId::ROOT;
        for name in names {
            id = self.lookup(id, name.as_bytes())?;
        }
        Ok(id)
    }

    /// Forgets what was looked up; some of it only later.
    pub(super) fn give_back(&mut self) {
        for id in std::mem::take(&mut self.borrowed) {
            if self.random.percent(25) {
                self.held.push_back(id);
            } else {
                self.ns.forget(id, 1);
            }
        }
        while self.held.len() > HELD_MAX {
            if let Some(id) = self.held.pop_front() {
                self.ns.forget(id, 1);
            }
        }
    }

    fn call(&mut self, step: &Step) -> Result<(), Error> {
        let ns = self.ns.clone();
        match step {
            Step::Model(operation) => self.call_operation(operation),
            Step::Blocks { file, .. } | Step::Part { file, .. } | Step::Size { file, .. } if self.is_lost(file) => {
                Ok(())
            }
            Step::Blocks { file, block, tokens } => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.contents.of(*token)).collect();
                let id = self.resolve(file)?;
                ns.write(&CX, id, u64::from(*block) * 4096, &bytes).map(drop)
            }
            Step::Part { file, block, token, second } => {
                let (at, bytes) = self.contents.part(*token, *second);
                let id = self.resolve(file)?;
                ns.write(&CX, id, u64::from(*block) * 4096 + at as u64, &bytes).map(drop)
            }
            Step::Size { file, blocks } => {
                let id = self.resolve(file)?;
                let set = SetAttributes { size: Some(u64::from(*blocks) * 4096), ..SetAttributes::default() };
                ns.setattr(&CX, id, &set).map(drop)
            }
        }
    }

    fn call_operation(&mut self, operation: &Operation) -> Result<(), Error> {
        let ns = self.ns.clone();
        let text = |name: &u32| name_text(*name).into_bytes();
        match operation {
            Operation::Create { directory, name } => {
                let id = self.resolve(directory)?;
                self.borrowed.push(ns.make(&CX, id, &text(name), &Make::File, 0o644)?.id);
                Ok(())
            }
            Operation::MakeDirectory { directory, name, .. } => {
                let id = self.resolve(directory)?;
                self.borrowed.push(ns.make(&CX, id, &text(name), &Make::Directory, 0o755)?.id);
                Ok(())
            }
            Operation::Unlink { file, other_name } => {
                if let Some(other) = other_name {
                    self.resolve(other)?;
                }
                let (parent, name) = self.parent(file)?;
                ns.unlink(&CX, parent, &name)
            }
            Operation::UnlinkOpen { file, orphan } => {
                let (parent, name) = self.parent(file)?;
                let id = self.open_for(*orphan, file)?;
                ns.unlink(&CX, parent, &name).inspect_err(|_| self.close(*orphan, id))
            }
            Operation::CloseOrphan { orphan } => {
                let Some(id) = self.open.get(orphan).copied() else { return Ok(()) };
                ns.close_file(&CX, id)?;
                self.open.remove(orphan);
                ns.forget(id, 1);
                Ok(())
            }
            Operation::RemoveDirectory { path } => {
                let (parent, name) = self.parent(path)?;
                ns.rmdir(&CX, parent, &name)
            }
            Operation::RemoveTree { path } => {
                let (parent, name) = self.parent(path)?;
                ns.delete_tree(&CX, parent, &name)
            }
            Operation::Rename { from, directory, name, other_name, orphan, .. } => {
                if let Some(other) = other_name {
                    self.resolve(other)?;
                }
                let (parent, old) = self.parent(from)?;
                let to = self.resolve(directory)?;
                let mut replaced = directory.clone();
                replaced.push(*name);
                let open = match orphan {
                    Some(orphan) => Some((*orphan, self.open_for(*orphan, &replaced)?)),
                    None => None,
                };
                ns.rename(&CX, parent, &old, to, &text(name), RenameMode::Replace).inspect_err(|_| {
                    if let Some((orphan, id)) = open {
                        self.close(orphan, id);
                    }
                })
            }
            Operation::Clone { source, directory, name, .. } | Operation::CloneFile { source, directory, name } => {
                let source = self.resolve(source)?;
                let id = self.resolve(directory)?;
                self.borrowed.push(ns.fork(&CX, source, id, &text(name))?.id);
                Ok(())
            }
            Operation::TakeSnapshot { directory, snapshot } => {
                let id = self.resolve(directory)?;
                self.borrowed.push(ns.snapshot(&CX, id, snapshot_name(*snapshot).as_bytes())?.id);
                Ok(())
            }
            Operation::DropSnapshot { snapshot, directory, .. } => {
                let id = self.resolve(directory)?;
                let list = self.lookup(id, b".snap")?;
                ns.rmdir(&CX, list, snapshot_name(*snapshot).as_bytes())
            }
            Operation::Link { file, directory, name, .. } => {
                let id = self.resolve(file)?;
                let to = self.resolve(directory)?;
                self.borrowed.push(ns.link(&CX, id, to, &text(name))?.id);
                Ok(())
            }
            other => panic!("the profile should have left out {other:?}"),
        }
    }

    fn parent(&mut self, path: &Path) -> Result<(InodeId, Vec<u8>), Error> {
        let (name, directory) = path.split_last().expect("a path with a name");
        Ok((self.resolve(directory)?, name_text(*name).into_bytes()))
    }

    /// Opens a file that is about to lose its last name.
    fn open_for(&mut self, orphan: u32, file: &Path) -> Result<InodeId, Error> {
        let id = self.resolve(file)?;
        self.ns.open_file(&CX, id, true)?;
        // Its lookup is kept as long as it is open: the last one of the path.
        self.borrowed.pop();
        self.open.insert(orphan, id);
        Ok(id)
    }

    fn close(&mut self, orphan: u32, id: InodeId) {
        self.open.remove(&orphan);
        // The inode is not an orphan: nothing is dropped.
        let _closed = self.ns.close_file(&CX, id);
        self.ns.forget(id, 1);
    }

    // ---- durability --------------------------------------------------------------------------------------------------------

    /// An error is a power failure, or wrong.
    pub(super) fn judge<T>(&self, what: &str, result: Result<T, Error>) -> Check<T> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.ground.is_dead() => Err(Failure::Power),
            Err(error) => wrong(format!("{what}: {error}")),
        }
    }

    fn judge_text(&self, what: String) -> Check<()> {
        if self.ground.is_dead() { Err(Failure::Power) } else { Err(Failure::Wrong(what)) }
    }

    fn sync(&mut self) -> Check<()> {
        let synced = self.ns.sync();
        self.judge("sync", synced)?;
        self.acknowledge();
        Ok(())
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.ns.sync_point();
        let last = self.done.pop().expect("at least the start");
        self.done.clear();
        self.done.push(last);
    }

    pub(super) fn checkpoint(&mut self) -> Check<()> {
        let made = self.ns.checkpoint();
        self.judge("checkpoint", made)?;
        self.acknowledge();
        if self.random.percent(40) {
            self.check_sums(false)?;
        }
        Ok(())
    }

    /// Checkpoints until nothing waits to be dropped; then sharing must be exactly what is reachable.
    fn quiesce(&mut self) -> Check<()> {
        for _ in 0..QUIET_CHECKPOINTS {
            let made = self.ns.checkpoint();
            self.judge("checkpoint", made)?;
            if self.ground.store().usage().drop_queue == 0 {
                self.acknowledge();
                return self.check_sums(true);
            }
        }
        wrong("INV-12: the drop queue does not get empty")
    }

    fn crash(&mut self) -> Check<()> {
        let again = self.recover()?;
        self.finish(again.into())
    }

    /// Power failure and a new mount, which must show a whole number of steps, everything acknowledged among them. The steps lost.
    fn recover(&mut self) -> Check<Vec<Step>> {
        if self.trace {
            println!("  {} power failure", self.operation);
        }
        let found = self.ground.crash(&mut self.random).map_err(Failure::Wrong)?;
        if found < self.acknowledged {
            return wrong(format!("INV-18: {found:?} recovered, {:?} acknowledged", self.acknowledged));
        }
        self.held.clear();
        self.borrowed.clear();
        self.open.clear();
        self.ns = open_namespace(&self.ground).or_else(|error| wrong(format!("mount: {error}")))?;
        let last = self.done.iter().rposition(|done| done.end <= found).expect("the start is durable");
        let again = self.done.split_off(last + 1);
        let uncertain = self.done.last().is_some_and(|done| !done.certain);
        self.volume = self.done[last].after.clone();
        let mut again: Vec<Step> = again.into_iter().filter_map(|done| done.step).collect();
        let compared = self.compare(true);
        if let (true, Err(Failure::Wrong(_))) = (uncertain, &compared) {
            let undone = self.done.pop().expect("the uncertain step");
            again.splice(0..0, undone.step);
            self.volume = self.done.last().expect("a step before it").after.clone();
            self.compare(true)?;
        } else {
            compared?;
        }
        let (after, end) = (self.volume.clone(), found);
        self.done = vec![Done { step: None, after, end, certain: true }];
        self.acknowledged = found;
        Ok(again)
    }

    // ---- the end -----------------------------------------------------------------------------------------------------------

    /// After it nothing may be left but empty roots: no leak at all.
    fn delete_everything(&mut self) -> Check<()> {
        let mut steps: Vec<Step> = vec![];
        for (name, entry) in self.volume.top.root.iter() {
            let path = vec![*name];
            steps.push(Step::Model(match entry {
                OracleEntry::File(_) | OracleEntry::Link(_) => Operation::Unlink { file: path, other_name: None },
                _ => Operation::RemoveTree { path },
            }));
        }
        steps.extend(self.volume.orphans.keys().map(|orphan| Step::Model(Operation::CloseOrphan { orphan: *orphan })));
        for step in steps {
            self.finish_calls(&step)?;
        }
        let own: Vec<u32> =
            self.volume.snapshots.iter().filter(|(_, snapshot)| snapshot.0.is_empty()).map(|(id, _)| *id).collect();
        for snapshot in own {
            self.finish_calls(&Step::Model(Operation::DropSnapshot {
                snapshot,
                directory: vec![],
                clear_flag: false,
            }))?;
        }
        self.volume = OracleVolume::default();
        self.open.clear();
        let (after, end) = (self.volume.clone(), self.ns.sync_point());
        self.done.push(Done { step: None, after, end, certain: true });
        self.compare(true)?;
        self.quiesce()?;
        let objects = self.ground.objects().map_err(Failure::Wrong)?;
        // Territory table, realm table, root directory, link table.
        if objects > 5 {
            return wrong(format!("INV-12: {objects} objects are left of an empty tree"));
        }
        self.crash()?;
        self.compare(true)
    }

    /// A step of the end, whose value is not followed.
    fn finish_calls(&mut self, step: &Step) -> Check<()> {
        for _ in 0..20 {
            let called = self.call(step);
            self.give_back();
            match called {
                Err(Error::NoSpace | Error::Store(StoreError::WouldWait { .. })) => {
                    let made = self.ns.checkpoint();
                    self.judge("checkpoint", made)?;
                }
                other => return self.judge(&format!("{step:?}"), other),
            }
        }
        wrong(format!("{step:?}: no space"))
    }
}

pub(super) fn snapshot_name(snapshot: u32) -> String {
    format!("s{snapshot}")
}
