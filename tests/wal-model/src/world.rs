//! A world: device, engine or recovery, and the oracle that knows the history. Every action is one step after which a crash may happen.
use crate::config::{Bug, Config};
use crate::device::Device;
use crate::engine::{Engine, Phase};
use crate::format::*;
use crate::rebuild::rebuild;
use crate::recovery::{Found, Io, Mount, plan, recover, verifies};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub enum Mode {
    Serving(Box<Engine>),
    Poisoned,
    Recovering { found: Rc<Found>, plan: Rc<Vec<Io>>, at: usize },
    ReadOnly(Rc<Found>),
    Over,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    pub ops: u8,
    pub checkpoints: u8,
    pub crashes: u8,
    pub process_crashes: u8,
    pub faults: u8,
    pub flush_failures: u8,
    pub quiet: u8,
}

/// What really happened.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Oracle {
    pub history: Vec<(Lsn, State)>, // state after the record that ends there
    pub acknowledged: Lsn,
    pub contents: BTreeMap<u16, u8>,
    pub fault_at: Option<usize>,
    pub covered: Lsn,               // at the fault: the largest watermark that other blocks hold
    pub expect: Option<(Lsn, u64)>, // what the recovery of this durable image must give, however often it is interrupted
    pub next_id: u16,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct World {
    pub device: Device,
    pub mode: Mode,
    pub oracle: Oracle,
    pub spent: Spent,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum Act {
    Put(u8, u8),
    Meta(u8),
    Submit,
    Complete(usize),
    Flush,
    FlushBegin,
    FlushEnd,
    FlushFails,
    Quiet,
    Checkpoint,
    /// The step that would append the CHECKPOINT record, without one.
    Unrecorded,
    Recover,
    AcceptLoss,
    PowerLoss,
    ProcessCrash,
}

#[derive(Default, Clone, Debug)]
pub struct Counters {
    pub crash_images: u64,
    pub mounts: u64,
    pub read_only: u64,
    pub damaged: u64,
    pub exceptions: u64,
    pub faults: u64,
    pub data_reported: u64,
}

type Check = Result<(), String>;

impl World {
    /// mkfs, mounted for the first time.
    pub fn format(cfg: &Config) -> World {
        let mut device = Device::new(cfg.blocks(), cfg.faults > 0);
        let state = State { slots: vec![None; cfg.slots as usize], open: false, digest: 0 };
        let node = Node { number: 0, opening: 0, freeze: 0, state: state.clone() };
        let checkpoint = Checkpoint {
            number: 0,
            freeze: 0,
            place: 0,
            crc: hash64(&node),
            start_bseq: cfg.ring,
            start_predecessor: 0,
            start_generation: 0,
        };
        let directory = VolumeDirectory {
            generation: 0,
            cuts: vec![Cut { generation: 0, lsn: 0, bseq: cfg.ring - 1, hash: 0 }],
            checkpoint,
            oid_bound: 0,
        };
        let superblock = Superblock { seq: 1, predecessor: 0, slot: 0, directory_crc: hash64(&directory) };
        for i in 0..4 {
            device.media[i] = Block::Superblock(superblock);
        }
        for c in 0..2 {
            device.media[4 + c] = Block::VolumeDirectory(Rc::new(directory.clone()));
        }
        device.media[cfg.place_at(0)] = Block::Node(Rc::new(node));
        let oracle = Oracle {
            history: vec![(0, state)],
            acknowledged: 0,
            contents: BTreeMap::new(),
            fault_at: None,
            covered: 0,
            expect: None,
            next_id: 0,
        };
        let mut w = World { device, mode: Mode::Over, oracle, spent: Spent::default() };
        let Mount::Found(f) = recover(cfg, &w.device) else { unreachable!() };
        for io in plan(cfg, &w.device, &f) {
            w.io(&io);
        }
        w.mode = Mode::Serving(Box::new(Engine::serve(cfg, &f, &mut w.oracle.next_id)));
        w
    }
    fn io(&mut self, io: &Io) {
        match io {
            Io::Write(at, b) => self.device.write(*at, b.clone(), true),
            Io::Flush => self.device.flush(|_| true),
            Io::Serve => {}
        }
    }

    pub fn acts(&self, cfg: &Config) -> Vec<Act> {
        let mut a = vec![];
        let s = &self.spent;
        match &self.mode {
            Mode::Serving(e) => {
                if s.ops < cfg.ops {
                    if e.admits(cfg, 1) && e.admits_data() {
                        let contents = if cfg.unrecorded { 1 } else { cfg.contents };
                        a.extend((0..cfg.slots).flat_map(|k| (0..contents).map(move |c| Act::Put(k, c))));
                    }
                    a.extend((1..=cfg.meta).filter(|u| e.admits(cfg, *u)).map(Act::Meta));
                }
                if !e.waiting.is_empty() {
                    a.push(Act::Submit);
                }
                a.extend(self.device.cache.iter().filter(|w| !w.done).map(|w| Act::Complete(w.at)));
                if !self.device.cache.is_empty() && e.durable != e.submitted {
                    if !cfg.split_flush {
                        a.push(Act::Flush);
                    } else if e.in_flush.is_none() {
                        a.push(Act::FlushBegin);
                    }
                }
                if e.in_flush.is_some() {
                    a.push(Act::FlushEnd);
                }
                if s.flush_failures < cfg.flush_failures && !self.device.cache.is_empty() {
                    a.push(Act::FlushFails);
                }
                if s.quiet < cfg.quiet && e.admits_watermark(cfg) && e.durable.0 == e.submitted.0 {
                    a.push(Act::Quiet);
                }
                if e.can_step_checkpoint(cfg, s.checkpoints < cfg.checkpoints) {
                    a.push(Act::Checkpoint);
                    if cfg.unrecorded && e.phase == Phase::NodeDurable {
                        a.push(Act::Unrecorded);
                    }
                }
            }
            Mode::Recovering { .. } => a.push(Act::Recover),
            Mode::ReadOnly(_) => a.push(Act::AcceptLoss),
            Mode::Poisoned => {}
            Mode::Over => return a,
        }
        // Power loss amid a group of recovery's writes is power loss at its end with the rest dropped: explored once, before the flush.
        let mid_group = matches!(&self.mode, Mode::Recovering { plan, at, .. } if matches!(plan[*at], Io::Write(..)));
        if s.crashes < cfg.crashes && !mid_group {
            a.push(Act::PowerLoss);
        }
        if s.process_crashes < cfg.process_crashes && self.device.cache.iter().all(|w| !w.limbo) {
            a.push(Act::ProcessCrash);
        }
        a
    }

    pub fn step(&mut self, cfg: &Config, act: Act, choose: &mut dyn FnMut(usize) -> usize, n: &mut Counters) -> Check {
        let World { device: d, mode, oracle: o, spent } = self;
        if let Mode::Serving(e) = mode {
            match act {
                Act::Put(slot, content) => {
                    spent.ops += 1;
                    let oid = e.next_oid;
                    // Where a rebuild is tried no bytes are like others: what was cut must not verify again by those of another object. (In a store the container's header tells them apart.)
                    let content = if cfg.unrecorded { (oid % 251) as u8 } else { content };
                    if o.contents.insert(oid, content).is_some() && !cfg.has(Bug::SlotsReusedBytesOnly) {
                        return Err(format!("(f) OID {oid} reused for another object"));
                    }
                    e.put(cfg, d, slot, content, &mut o.next_id);
                }
                Act::Meta(units) => {
                    spent.ops += 1;
                    e.append(Kind::Meta, units, &mut o.next_id);
                }
                Act::Submit if !e.submit(cfg, d) => {
                    return Err("(e) ring full: an admitted record does not fit".into());
                }
                Act::Complete(at) => {
                    if let Some(w) = d.cache.iter_mut().find(|w| w.at == at && !w.done) {
                        w.done = true;
                    }
                    e.in_flight.retain(|f| f.1 != at);
                }
                Act::Flush => e.flush(cfg, d),
                Act::FlushBegin => e.flush_begin(cfg, d),
                Act::FlushEnd => e.flush_end(cfg, d),
                Act::FlushFails => {
                    spent.flush_failures += 1;
                    d.cache.iter_mut().for_each(|w| w.limbo = true);
                    if !cfg.has(Bug::FlushRetried) {
                        *mode = Mode::Poisoned;
                    }
                }
                Act::Quiet => {
                    spent.quiet += 1;
                    e.frame(cfg, d, e.next_lsn, vec![]);
                }
                Act::Checkpoint | Act::Unrecorded => {
                    spent.checkpoints += (e.phase == Phase::Idle) as u8;
                    if !e.step_checkpoint(cfg, d, &mut o.next_id, act == Act::Unrecorded) {
                        return Err("(e) ring full: no room for the CHECKPOINT record".into());
                    }
                }
                _ => {}
            }
        }
        if let Mode::Serving(e) = mode {
            let known = o.history.last().map_or(0, |h| h.0);
            if e.next_lsn > known {
                // Records appended by this step. The state after each is the engine's own: the oracle replays them.
                let new: Vec<(Lsn, Record)> = e.waiting.iter().filter(|w| w.0 >= known).copied().collect();
                let new = if new.is_empty() { e.just_appended(known) } else { new };
                for (lsn, r) in new {
                    let mut s = o.history.last().expect("history").1.clone();
                    s.apply(&r);
                    o.history.push((lsn + r.units as Lsn, s));
                }
            }
            o.acknowledged = o.acknowledged.max(e.durable.0);
            let base = e.directory.checkpoint.freeze;
            if let Some(i) = o.history.iter().rposition(|h| h.0 <= base)
                && cfg.bug.is_none()
            {
                o.history.drain(..i);
            }
            if o.history.last().map(|h| &h.1) != Some(&e.state) {
                return Err("model: oracle and engine disagree".into());
            }
            return match act {
                Act::PowerLoss | Act::ProcessCrash => self.crash(cfg, act, choose, n),
                _ => check_live(cfg, d, o, &e.state, n),
            };
        }
        match act {
            Act::PowerLoss | Act::ProcessCrash => self.crash(cfg, act, choose, n),
            Act::Recover => self.recovery_step(cfg, n),
            Act::AcceptLoss => {
                if let Mode::ReadOnly(f) = &self.mode {
                    self.oracle.acknowledged = f.cut_lsn;
                    let plan = Rc::new(plan(cfg, &self.device, f));
                    self.mode = Mode::Recovering { found: f.clone(), plan, at: 0 };
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn crash(&mut self, cfg: &Config, act: Act, choose: &mut dyn FnMut(usize) -> usize, n: &mut Counters) -> Check {
        n.crash_images += 1;
        let recovering = matches!(self.mode, Mode::Recovering { .. } | Mode::ReadOnly(_));
        if act == Act::ProcessCrash {
            self.spent.process_crashes += 1;
            self.device.cache.iter_mut().for_each(|w| (w.done, w.covered) = (true, false));
        } else {
            self.spent.crashes += 1;
            self.device.power_loss(choose);
            if self.spent.faults < cfg.faults {
                self.fault(cfg, choose, n);
            }
        }
        if !(recovering && self.oracle.expect.is_some() && self.oracle.fault_at.is_none()) {
            self.oracle.expect = None;
        }
        n.mounts += 1;
        let first = self.oracle.expect;
        match recover(cfg, &self.device) {
            Mount::Damaged(what) => {
                n.damaged += 1;
                self.mode = Mode::Over;
                let allowed = self.oracle.fault_at.is_some_and(|at| at >= 8 + cfg.ring as usize) && what == "root node";
                if allowed { Ok(()) } else { Err(format!("unmountable: {what} damaged")) }
            }
            Mount::Found(f) => {
                if let Some((cut, digest)) = first
                    && (cut, digest) != (f.cut_lsn, f.state.digest)
                {
                    return Err(format!("(d) interrupted recovery gave another cut: {} not {cut}", f.cut_lsn));
                }
                if self.device.cache.is_empty() && !f.corrupt {
                    self.oracle.expect = Some((f.cut_lsn, f.state.digest));
                }
                self.check_found(cfg, &f, n)?;
                if cfg.unrecorded && f.directory.checkpoint.number > 0 {
                    self.check_rebuilt(cfg)?;
                }
                let f = Rc::new(*f);
                self.mode = if f.corrupt {
                    n.read_only += 1;
                    Mode::ReadOnly(f)
                } else {
                    let plan = Rc::new(plan(cfg, &self.device, &f));
                    Mode::Recovering { found: f, plan, at: 0 }
                };
                Ok(())
            }
        }
    }

    /// One block goes bad: unreadable, or showing what it held before its last write (a lost write).
    fn fault(&mut self, cfg: &Config, choose: &mut dyn FnMut(usize) -> usize, n: &mut Counters) {
        let c = choose(2 * cfg.blocks() + 1);
        if c == 0 {
            return;
        }
        let at = (c - 1) / 2;
        let becomes = if c.is_multiple_of(2) { self.device.previous[at].clone() } else { Block::Garbage };
        if self.device.media[at] == becomes || self.device.media[at] == Block::Empty {
            return;
        }
        let before = match recover(cfg, &self.device) {
            // the threshold that blocks other than this one hold
            Mount::Found(f) => f,
            Mount::Damaged(_) => return,
        };
        n.faults += 1;
        self.spent.faults += 1;
        self.device.media[at] = becomes;
        self.oracle.fault_at = Some(at);
        self.oracle.covered = before.directory.cut().lsn.max(before.directory.checkpoint.freeze);
        for i in 0..cfg.ring {
            if let Block::Wal(b) = &self.device.media[cfg.ring_at(i)]
                && b.generation == before.directory.generation
            {
                self.oracle.covered = self.oracle.covered.max(b.durable_lsn);
            }
        }
    }

    fn check_found(&mut self, cfg: &Config, f: &Found, n: &mut Counters) -> Check {
        let o = &mut self.oracle;
        if f.corrupt && o.fault_at.is_none() {
            return Err(format!("(c) false corruption report at LSN {}", f.cut_lsn));
        }
        if f.corrupt && o.fault_at.is_some_and(|at| at < 8) {
            return Err("(c) a bad superblock or directory copy cost the log".into());
        }
        let Some((_, state)) = o.history.iter().find(|h| h.0 == f.cut_lsn) else {
            return Err(format!("(a) cut {} is not a record boundary of this history", f.cut_lsn));
        };
        if *state != f.state {
            return Err(format!("(a) recovered state at LSN {} is not the state of the history", f.cut_lsn));
        }
        if f.cut_lsn < o.acknowledged && !f.corrupt {
            if o.fault_at.is_none() {
                return Err(format!("(a) acknowledged sync lost: cut {} < {}", f.cut_lsn, o.acknowledged));
            }
            if f.cut_lsn < o.covered {
                return Err(format!("(c) silent cut {} below a watermark {}", f.cut_lsn, o.covered));
            }
            n.exceptions += 1;
            o.acknowledged = f.cut_lsn;
        }
        check_live(cfg, &self.device, &self.oracle, &f.state, n)
    }

    /// (g): nodes, data and log alone give a state of the history, with everything acknowledged.
    fn check_rebuilt(&self, cfg: &Config) -> Check {
        let o = &self.oracle;
        let Some(found) = rebuild(cfg, &self.device) else { return Err("(g) nothing to rebuild from".into()) };
        if !found.whole {
            return Err("(g) the checkpoint to rebuild from cannot be read".into());
        }
        if found.cut_lsn < o.acknowledged {
            return Err(format!("(g) rebuilt to {}, acknowledged {}", found.cut_lsn, o.acknowledged));
        }
        if !o.history.iter().any(|h| h.0 == found.cut_lsn && h.1 == found.state) {
            return Err(format!("(g) the state rebuilt at LSN {} is not one of the history", found.cut_lsn));
        }
        let bad = found.state.slots.iter().flatten().find(|object| !verifies(cfg, &self.device, object));
        bad.map_or(Ok(()), |object| Err(format!("(g) object {} does not verify in the rebuilt state", object.oid)))
    }

    fn recovery_step(&mut self, cfg: &Config, n: &mut Counters) -> Check {
        let Mode::Recovering { found, plan, at } = &self.mode else { return Ok(()) };
        let (found, plan, at) = (found.clone(), plan.clone(), *at);
        self.io(&plan[at]);
        if plan[at] != Io::Serve {
            self.mode = Mode::Recovering { found, plan, at: at + 1 };
            return Ok(());
        }
        // Serving starts: the cut is the end of history, and mounting again finds the same.
        match recover(cfg, &self.device) {
            Mount::Found(again) if again.cut_lsn == found.cut_lsn && again.state == found.state && !again.corrupt => {}
            other => {
                return Err(format!(
                    "(d) mounted twice: {:?}",
                    if let Mount::Found(g) = other { (g.cut_lsn, g.corrupt) } else { (0, true) }
                ));
            }
        }
        let o = &mut self.oracle;
        o.history.retain(|h| h.0 <= found.cut_lsn);
        o.acknowledged = found.cut_lsn;
        o.expect = None;
        let e = Engine::serve(cfg, &found, &mut o.next_id);
        for (lsn, r) in &e.waiting {
            let mut s = o.history.last().expect("history").1.clone();
            s.apply(r);
            o.history.push((lsn + r.units as Lsn, s));
        }
        check_live(cfg, &self.device, o, &e.state, n)?;
        self.mode = Mode::Serving(Box::new(e));
        Ok(())
    }
}

/// (b): what verifies is what was written for that object; what does not verify is the faulted block.
fn check_live(cfg: &Config, d: &Device, o: &Oracle, s: &State, n: &mut Counters) -> Check {
    for object in s.slots.iter().flatten() {
        let at = cfg.place_at(object.place);
        if !crate::recovery::verifies(cfg, d, object) {
            if o.fault_at == Some(at) {
                n.data_reported += 1;
                continue;
            }
            return Err(format!("(b) object {} at place {} does not verify", object.oid, object.place));
        }
        if let Block::Data { content, .. } = d.read(at)
            && o.contents.get(&object.oid) != Some(content)
        {
            return Err(format!("(b) object {} shows other bytes", object.oid));
        }
    }
    Ok(())
}
