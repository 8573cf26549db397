//! `envoyfs scrub` and `envoyfs check`: passes over a mounted store. The daemon makes them; this starts one, shows how far it is, and tells what it found.

use super::control::{Directory, explain, open_directory};
use super::failure::Failure;
use crate::mkfs::size::Size;
use crate::output;
use anyhow::{Result, anyhow, bail};
use clap::Args;
use envoyfs_fuse::control::{Pass, client, pass_action, pass_kind, pass_state, text_kind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::io::Errno;
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks at a pass that runs.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `envoyfs scrub`.
#[derive(Args, Debug)]
pub struct Scrub {
    #[command(flatten)]
    common: Common,
    /// Container to begin with: where an earlier scrub was stopped.
    #[arg(long, value_name = "CONTAINER", default_value_t = 0)]
    from: u32,
}

/// Arguments of `envoyfs check`.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    common: Common,
}

/// What both take.
#[derive(Args, Debug)]
pub struct Common {
    /// A directory of the mount.
    directory: PathBuf,
    /// Read at most so much a second.
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    /// Start it and return; --status tells how it is.
    #[arg(long, conflicts_with_all = ["status", "stop"])]
    background: bool,
    /// Tell how the last one is, or what it found.
    #[arg(long)]
    status: bool,
    /// Stop the one that runs.
    #[arg(long, conflicts_with = "status")]
    stop: bool,
    /// Print JSON; sizes in bytes.
    #[arg(long)]
    json: bool,
}

impl Scrub {
    /// Scrubs.
    pub fn run(self) -> Result<()> {
        let kind = Kind { code: pass_kind::SCRUB, text: text_kind::SCRUB, name: "scrub", unit: "containers" };
        self.common.run(&kind, self.from.into())
    }
}

impl Check {
    /// Checks.
    pub fn run(self) -> Result<()> {
        let kind = Kind { code: pass_kind::CHECK, text: text_kind::CHECK, name: "check", unit: "nodes" };
        self.common.run(&kind, 0)
    }
}

struct Kind {
    code: u16,
    text: u16,
    name: &'static str,
    unit: &'static str,
}

impl Common {
    fn run(&self, kind: &Kind, from: u64) -> Result<()> {
        let directory = open_directory(&self.directory)?;
        let action = match (self.status, self.stop) {
            (true, _) => pass_action::ASK,
            (_, true) => pass_action::STOP,
            _ => pass_action::START,
        };
        let mut request = Pass::request(kind.code, action);
        request.from.set(from);
        request.bytes_per_second.set(self.rate.map_or(0, |rate| rate.0));
        let mut pass = self.ask(&directory, kind, request)?;
        if self.status || self.background {
            return self.tell(&directory, kind, &pass);
        }
        let number = pass.number.get();
        request.action.set(pass_action::ASK);
        let bar = bar(kind, self.json);
        while pass.state.get() == pass_state::RUNNING && pass.number.get() == number {
            if pass.total.get() > 0 {
                bar.set_length(pass.total.get());
            }
            bar.set_position(pass.done.get());
            std::thread::park_timeout(LOOK);
            pass = self.ask(&directory, kind, request)?;
        }
        bar.finish_and_clear();
        self.tell(&directory, kind, &pass)
    }

    fn ask(&self, directory: &Directory, kind: &Kind, request: Pass) -> Result<Pass> {
        client::pass(&directory.descriptor, request).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::BUSY) => Failure::Busy {
                    path: self.directory.clone(),
                    why: format!("a {0} runs already ('envoyfs {0} --status' shows it, --stop ends it)", kind.name),
                }
                .into(),
                Some(Errno::PERM) => {
                    Failure::Denied(format!("only root and who mounted the store may start a {}", kind.name)).into()
                }
                _ => explain(format!("{} of {}", kind.name, self.directory.display()), error),
            }
        })
    }

    /// Prints it. Damage is a failure of its own.
    fn tell(&self, directory: &Directory, kind: &Kind, pass: &Pass) -> Result<()> {
        let state = pass.state.get();
        let mut report = match state {
            pass_state::NEVER | pass_state::RUNNING => Map::new(),
            _ => {
                let text = client::text(&directory.descriptor, kind.text)
                    .map_err(|error| explain(format!("asking what the {} found", kind.name), error))?;
                match serde_json::from_slice(&text)? {
                    Value::Object(report) => report,
                    _ => Map::new(),
                }
            }
        };
        report.insert("state".into(), state_name(state).into());
        if state == pass_state::RUNNING {
            report.insert("done".into(), pass.done.get().into());
            report.insert("total".into(), pass.total.get().into());
            report.insert("findings".into(), pass.findings.get().into());
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&report)?)?;
        } else {
            let text = text(kind, state, &report);
            if !text.is_empty() {
                output::line(text.trim_end())?;
            }
        }
        match state {
            pass_state::FAILED => {
                let why = report.get("error").and_then(Value::as_str).unwrap_or("the daemon's log says why");
                bail!("the {} failed: {why}", kind.name)
            }
            pass_state::DONE | pass_state::STOPPED if pass.findings.get() > 0 => {
                Err(anyhow!(Failure::Found(format!("the {} found damage", kind.name))))
            }
            _ => Ok(()),
        }
    }
}

fn bar(kind: &Kind, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target);
    let template = format!("{} {{wide_bar}} {{pos}}/{{len}} {} {{eta}}", kind.name, kind.unit);
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

const fn state_name(state: u16) -> &'static str {
    match state {
        pass_state::NEVER => "never",
        pass_state::RUNNING => "running",
        pass_state::DONE => "done",
        pass_state::STOPPED => "stopped",
        _ => "failed",
    }
}

fn number(report: &Map<String, Value>, field: &str) -> u64 {
    report.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// As people read it.
fn text(kind: &Kind, state: u16, report: &Map<String, Value>) -> String {
    let mut out = String::new();
    let get = |field: &str| number(report, field);
    let result = match (state, kind.code) {
        (pass_state::NEVER, _) => writeln!(out, "no {} since the mount", kind.name),
        (pass_state::RUNNING, _) => match get("total") {
            0 => writeln!(out, "running: {} {}", get("done"), kind.unit),
            total => writeln!(out, "running: {} of {total} {}", get("done"), kind.unit),
        },
        (pass_state::FAILED, _) => Ok(()),
        (_, pass_kind::SCRUB) => scrub_text(&mut out, state, report),
        _ if report.contains_key("checkpoint") => check_text(&mut out, report),
        _ => writeln!(out, "stopped"),
    };
    // Writing to a string does not fail.
    debug_assert!(result.is_ok());
    out
}

fn scrub_text(out: &mut String, state: u16, report: &Map<String, Value>) -> std::fmt::Result {
    let get = |field: &str| number(report, field);
    let findings = report.get("findings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for finding in findings {
        let field = |name: &str| finding.get(name).filter(|value| !value.is_null());
        if !finding["container"].is_null() {
            write!(out, "container {} unit {}: ", finding["container"], finding["unit"])?;
        }
        if let Some(object) = field("object").and_then(Value::as_str) {
            write!(out, "object {object}")?;
            if let Some(inode) = field("inode") {
                write!(out, " of inode {inode}")?;
            }
            write!(out, ": ")?;
        }
        writeln!(out, "{}", field("what").and_then(Value::as_str).unwrap_or_default())?;
    }
    if get("more_findings") > 0 {
        writeln!(out, "and {} more", get("more_findings"))?;
    }
    writeln!(out, "verified     {} in {} objects", Size(get("bytes")), get("objects"))?;
    if get("unnamed_bytes") > 0 {
        writeln!(out, "not looked at {} written since the last checkpoint", Size(get("unnamed_bytes")))?;
    }
    if state == pass_state::STOPPED {
        writeln!(out, "stopped at container {} of {}; --from {0} goes on", get("next_container"), get("containers"))?;
    }
    writeln!(out, "damaged      {}", findings.len() as u64 + get("more_findings"))
}

fn check_text(out: &mut String, report: &Map<String, Value>) -> std::fmt::Result {
    let get = |field: &str| number(report, field);
    writeln!(out, "checkpoint   {}", get("checkpoint"))?;
    writeln!(out, "visited      {} nodes, {} objects, {} passes", get("nodes"), get("objects"), get("passes"))?;
    writeln!(out, "wrong counts {}", get("wrong_counts"))?;
    writeln!(out, "leaked       {}", Size(get("leaked_bytes")))?;
    writeln!(out, "lost         {}", Size(get("lost_bytes") + get("wrongly_deferred_bytes")))?;
    writeln!(out, "unused       {} of shared extents, given back", Size(get("unused_bytes")))?;
    let unreadable = report.get("unreadable_nodes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for node in unreadable.iter().filter_map(Value::as_str) {
        writeln!(out, "node {node} cannot be read; nothing is corrected until fsck.envoyfs -y has repaired it")?;
    }
    writeln!(out, "corrections  {}, made by the next checkpoints", get("corrections"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn damage_is_shown_with_its_place_its_object_and_its_owner() {
        let kind = Kind { code: pass_kind::SCRUB, text: text_kind::SCRUB, name: "scrub", unit: "containers" };
        let report = object(json!({
            "next_container": 3, "containers": 9, "objects": 2, "bytes": 8192, "unnamed_bytes": 512,
            "findings": [{ "container": 1, "unit": 8, "object": "909:1:8", "inode": 77, "what": "checksum" }],
            "more_findings": 4,
        }));
        let text = text(&kind, pass_state::STOPPED, &report);
        for line in [
            "container 1 unit 8: object 909:1:8 of inode 77: checksum",
            "and 4 more",
            "verified     8 KiB in 2 objects",
            "stopped at container 3 of 9; --from 3 goes on",
            "damaged      5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_pass_that_never_ran_or_still_runs_says_so() {
        let kind = Kind { code: pass_kind::CHECK, text: text_kind::CHECK, name: "check", unit: "nodes" };
        assert_eq!(text(&kind, pass_state::NEVER, &Map::new()), "no check since the mount\n");
        let running = object(json!({ "done": 7, "total": 9 }));
        assert_eq!(text(&kind, pass_state::RUNNING, &running), "running: 7 of 9 nodes\n");
        assert_eq!(text(&kind, pass_state::STOPPED, &Map::new()), "stopped\n");
    }
}
