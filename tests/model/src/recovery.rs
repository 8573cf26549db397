//! The log of operations and what a crash leaves: replay of a prefix onto the durable checkpoint, then the drop of orphans.

use crate::bugs::Bug;
use crate::collections::Set;
use crate::model::{Model, Pending};
use crate::operation::{Operation, Record};

impl Model {
    /// Applies an operation to the oracle and to the model, and logs it.
    pub(crate) fn execute(&mut self, operation: Operation) {
        self.stats.ops += 1;
        self.oracle.apply(&operation);
        self.apply(&operation);
        if std::env::var("TRACE").is_ok() {
            eprintln!("{} t{} {:?}", self.stats.ops, self.now, operation);
        }
        let after = self.oracle.clone();
        self.log.push(Record { operation, stamp: self.now, after });
    }

    /// Power loss: a prefix of the log survives that holds at least what was flushed. Then recovery.
    pub(crate) fn crash(&mut self) {
        self.stats.crashes += 1;
        if self.in_flight.is_some() && self.generator.rng.percent(30) {
            self.publish(); // the superblock made it
        }
        let have = self.log_base + self.log.len();
        let mut cut = self.log_durable.max(self.log_base);
        if have > self.log_durable {
            cut += self.generator.rng.index(have - self.log_durable + 1);
        }
        self.return_to_durable();
        let records: Vec<Record> = std::mem::take(&mut self.log).into_iter().take(cut - self.log_base).collect();
        self.rebuild_available(&records);
        self.check_durable();
        let before = self.now;
        if self.bug(Bug::OrphanDropEarly) {
            for l in self.oracle.orphans.keys().copied().collect::<Vec<_>>() {
                self.table_remove(l);
            }
        }
        for r in records {
            self.replay(r);
        }
        self.log_durable = cut;
        self.now = before + 1;
        self.check();
        // orphans go after replay, logged
        for orphan in self.oracle.orphans.keys().copied().collect::<Vec<_>>() {
            self.now += 1;
            self.stats.orphans_recovered += 1;
            self.execute(Operation::CloseOrphan { orphan });
        }
    }

    fn return_to_durable(&mut self) {
        self.in_flight = None;
        self.pending = Pending::default();
        let unpublished = std::mem::replace(&mut self.current, self.durable.clone());
        if self.bug(Bug::RawIndexReplay) {
            self.current.counts = unpublished.counts;
            self.current.queue = unpublished.queue;
            self.current.drop_queue = unpublished.drop_queue;
        }
        self.top = self.durable.roots.0.clone();
        self.table = self.durable.roots.1;
        self.oracle = self.durable.oracle.clone();
        self.last_batch = self.last_batch.max(self.durable.batch);
        for o in &mut self.objects {
            if o.batch > self.durable.batch {
                o.batch = 0;
            }
        }
    }

    /// Free is what neither the durable checkpoint nor a surviving record names.
    fn rebuild_available(&mut self, records: &[Record]) {
        let mut used: Set<u32> = self.durable.places.values().copied().collect();
        used.extend(self.durable.dead.iter().map(|x| x.place));
        for r in records {
            if let Operation::Write { places, direct: true, .. } = &r.operation {
                used.extend(places);
            }
        }
        self.available = (0..self.device.len() as u32).filter(|p| !used.contains(p)).collect();
    }

    fn replay(&mut self, r: Record) {
        self.now = r.stamp;
        // replayed direct data must still be on the device
        if let Operation::Write { places, direct: true, extent, .. } = &r.operation {
            for (block, place) in places.iter().enumerate() {
                if self.device[*place as usize] != (*extent, block as u32) {
                    fail!(self, "replay: data of extent {} was overwritten", extent)
                }
            }
        }
        self.apply(&r.operation);
        self.oracle = r.after.clone();
        self.stats.replayed += 1;
        self.log.push(r);
    }
}
