//! Passes over the whole store that an administrator starts: scrub and online check. One of each kind at a time, each on a thread of its own, asked about by number.
//!
//! ```text
//! never --start--> running --> done | stopped | failed --start--> running
//! ```
//! If power fails: nothing of a pass is left but the corrections that checkpoints published.

use crate::control::{Pass, pass_action, pass_kind, pass_state};
use crate::errno::Errno;
use envoyfs_engine::{MarkOptions, MarkReport, ScrubFinding, ScrubOptions, ScrubReport};
use envoyfs_namespace::Namespace;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use zerocopy::FromZeros as _;

/// What is known of the last pass of a kind.
struct Seen {
    pass: Pass,
    report: Value,
}

impl Default for Seen {
    fn default() -> Self {
        Self { pass: Pass::new_zeroed(), report: Value::Null }
    }
}

#[derive(Default)]
struct Slot {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// See the module.
pub struct Upkeep {
    namespace: Arc<Namespace>,
    slots: [Slot; 2],
}

impl Upkeep {
    /// Nothing runs.
    pub fn new(namespace: Arc<Namespace>) -> Self {
        Self { namespace, slots: Default::default() }
    }

    fn slot(&mut self, kind: u16) -> Result<&mut Slot, Errno> {
        let index = match kind {
            pass_kind::SCRUB => 0,
            pass_kind::CHECK => 1,
            _ => return Err(Errno::EINVAL),
        };
        self.slots.get_mut(index).ok_or(Errno::EINVAL)
    }

    /// Starts a pass, asks one to stop, or only looks; answers how the last one of its kind is.
    pub fn handle(&mut self, request: &Pass) -> Result<Pass, Errno> {
        let namespace = Arc::clone(&self.namespace);
        let slot = self.slot(request.kind.get())?;
        match request.action.get() {
            pass_action::ASK => {}
            pass_action::STOP => slot.stop.store(true, Ordering::Release),
            pass_action::START => slot.start(namespace, *request)?,
            _ => return Err(Errno::EINVAL),
        }
        let mut answer = slot.seen.lock().pass;
        answer.kind = request.kind;
        Ok(answer)
    }

    /// What the last pass of a kind found, as JSON.
    pub fn report(&mut self, kind: u16) -> Result<String, Errno> {
        Ok(self.slot(kind)?.seen.lock().report.to_string())
    }
}

impl Slot {
    fn start(&mut self, namespace: Arc<Namespace>, request: Pass) -> Result<(), Errno> {
        if self.seen.lock().pass.state.get() == pass_state::RUNNING {
            return Err(Errno::EBUSY);
        }
        self.join();
        self.stop.store(false, Ordering::Release);
        let (seen, stop) = (Arc::clone(&self.seen), Arc::clone(&self.stop));
        {
            let mut seen = seen.lock();
            let number = seen.pass.number.get() + 1;
            *seen = Seen::default();
            seen.pass.kind = request.kind;
            seen.pass.number.set(number);
            seen.pass.state.set(pass_state::RUNNING);
        }
        let run = move || {
            let stopped = || stop.load(Ordering::Acquire);
            let result = match request.kind.get() {
                pass_kind::SCRUB => scrub(&namespace, &request, &seen, &stopped),
                _ => check(&namespace, &request, &seen, &stopped),
            };
            let mut seen = seen.lock();
            let state = match result {
                Ok(()) if stopped() => pass_state::STOPPED,
                Ok(()) => pass_state::DONE,
                Err(_) if stopped() => pass_state::STOPPED,
                Err(error) => {
                    tracing::error!(%error, "a pass over the store failed");
                    seen.report = json!({ "error": error.to_string() });
                    pass_state::FAILED
                }
            };
            seen.pass.state.set(state);
        };
        let thread = std::thread::Builder::new().name("envoyfs-upkeep".to_owned()).spawn(run);
        self.thread = Some(thread.map_err(|_| {
            self.seen.lock().pass.state.set(pass_state::FAILED);
            Errno::ENOMEM
        })?);
        Ok(())
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of a pass over the store panicked");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.join();
    }
}

type Answer = Result<(), envoyfs_namespace::api::Error>;

fn go_on(stopped: &dyn Fn() -> bool) -> ControlFlow<()> {
    if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn scrub(namespace: &Namespace, request: &Pass, seen: &Mutex<Seen>, stopped: &dyn Fn() -> bool) -> Answer {
    let from = u32::try_from(request.from.get()).unwrap_or(u32::MAX);
    let options = ScrubOptions { from, bytes_per_second: request.bytes_per_second.get() };
    let report = namespace.scrub(options, &mut |report| {
        show_scrub(&mut seen.lock().pass, report);
        go_on(stopped)
    })?;
    let mut seen = seen.lock();
    show_scrub(&mut seen.pass, &report);
    seen.report = json!({
        "next_container": report.position,
        "containers": report.containers,
        "objects": report.objects,
        "bytes": report.bytes,
        "unnamed_bytes": report.unnamed_units * u64::from(envoyfs_layout::UNIT),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "more_findings": report.more_findings,
    });
    Ok(())
}

fn show_scrub(pass: &mut Pass, report: &ScrubReport) {
    pass.done.set(report.position.into());
    pass.total.set(report.containers.into());
    pass.objects.set(report.objects);
    pass.bytes.set(report.bytes);
    pass.findings.set(report.findings.len() as u64 + report.more_findings);
}

fn finding(found: &ScrubFinding) -> Value {
    json!({
        "container": found.container,
        "unit": found.unit,
        "object": found.object.map(|oid| oid.to_string()),
        "inode": (found.owner != 0).then_some(found.owner),
        "what": found.what,
    })
}

fn check(namespace: &Namespace, request: &Pass, seen: &Mutex<Seen>, stopped: &dyn Fn() -> bool) -> Answer {
    let options = MarkOptions { bytes_per_second: request.bytes_per_second.get(), ..MarkOptions::default() };
    let report = namespace.mark(options, &mut |progress| {
        let pass = &mut seen.lock().pass;
        pass.done.set(progress.nodes);
        pass.total.set(progress.nodes_a_pass * progress.passes_expected);
        pass.objects.set(progress.nodes);
        go_on(stopped)
    })?;
    let mut seen = seen.lock();
    let MarkReport { checkpoint, passes, nodes, objects, counts, leaked_bytes, unused_bytes, .. } = report;
    let wrong_bytes = leaked_bytes + report.lost_bytes + report.deferred_bytes;
    seen.pass.objects.set(objects);
    seen.pass.findings.set(counts + u64::from(wrong_bytes > 0) + report.unreadable.len() as u64);
    seen.report = json!({
        "checkpoint": checkpoint,
        "passes": passes,
        "nodes": nodes,
        "objects": objects,
        "wrong_counts": counts,
        "leaked_bytes": leaked_bytes,
        "lost_bytes": report.lost_bytes,
        "wrongly_deferred_bytes": report.deferred_bytes,
        "unused_bytes": unused_bytes,
        "unreadable_nodes": report.unreadable.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "corrections": report.repairs,
    });
    Ok(())
}

/// Retained checkpoints, as JSON.
pub fn history(namespace: &Namespace) -> Result<String, envoyfs_namespace::api::Error> {
    let (roots, usage) = namespace.history()?;
    let checkpoints: Vec<Value> = roots
        .iter()
        .map(|root| json!({ "checkpoint": root.checkpoint, "time_ns": root.wall_ns, "hlc": root.hlc.0 }))
        .collect();
    Ok(json!({ "checkpoints": checkpoints, "kept_bytes": usage.deferred }).to_string())
}
