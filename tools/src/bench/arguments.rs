//! The command line: own options, job files, and jobs in fio's way (`--name=a --rw=randread ...`).

use super::check;
use super::job_file::Jobs;
use super::option;
use super::report::{Report, json, text};
use super::runner::{Runner, timed};
use super::watch::Watch;
use crate::output;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::signature;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a run that was ended by a signal: fio's.
const EXIT_STOPPED: u8 = 128;

/// How the report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Normal,
    /// fio's JSON.
    Json,
    /// The same, with how many latencies fell into each of fio's bins.
    #[value(name = "json+")]
    JsonPlus,
}

/// Measure the object store with fio's jobs, and the bare device below it in turns with it.
///
/// Everything that fio's job files know and envoyfs bench does too may stand behind these options as --OPTION=VALUE; --name=NAME starts a job. envoyfs-bench(1) lists them.
#[derive(Debug, Parser)]
#[command(name = "envoyfs bench", no_binary_name = true)]
struct Line {
    /// Job files.
    #[arg(value_name = "JOBFILE")]
    files: Vec<PathBuf>,
    /// How the report is written.
    #[arg(long, value_enum, default_value = "normal")]
    output_format: Format,
    /// Write the report to a file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite what devices and images hold.
    #[arg(long)]
    force: bool,
    /// Turns of the store and the device, where a job names no ioengine: each gets RUNTIME, cut into so many pieces.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the scratch image of jobs without a filename is made. It has no name while it is used and is gone at the end.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    /// Check the jobs and do nothing.
    #[arg(long)]
    parse_only: bool,
}

/// Arguments; `envoyfs bench --help` explains them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Options, job files, and --OPTION=VALUE of jobs.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    all: Vec<String>,
}

impl Arguments {
    /// Measures and reports.
    ///
    /// # Errors
    /// What is wrong with a job, and what devices and the store report. Wrong options of this command end the process with status 2.
    pub fn run(self) -> Result<ExitCode> {
        let (line, jobs) = split(self.all)?;
        let matches = Line::command().try_get_matches_from(line).unwrap_or_else(|error| error.exit());
        let line = Line::from_arg_matches(&matches)?;
        let jobs = jobs_of(&line, &jobs)?;
        check::check(&jobs.jobs)?;
        if line.parse_only {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(output) = &line.output {
            ensure_report(output)?;
        }
        // Before hours of measuring.
        let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let output = line.output.as_ref().map(create).transpose()?;
        let stop = Arc::new(AtomicBool::new(false));
        // Before any other thread is started.
        end_on_signal(&stop)?;
        let watch = Watch::new(stop);
        let runner = Runner { directory: line.directory, force: line.force, rounds: line.rounds, watch: watch.clone() };
        let outcome = timed(&runner, &jobs.jobs);
        watch.end();
        let (outcome, elapsed) = match outcome {
            Err(error) if watch.is_stopped() => {
                output::error(format_args!("envoyfs bench: {error:#}"));
                return Ok(EXIT_STOPPED.into());
            }
            outcome => outcome?,
        };
        let wall_ns = SystemClock::new().wall_ns();
        let (entries, disks, elapsed_s) = (&outcome.entries[..], &outcome.disks[..], elapsed.as_secs());
        let report = Report { entries, global: &jobs.global, disks, wall_ns, elapsed_s };
        let shown = match line.output_format {
            Format::Normal => text::text(&report),
            Format::Json => serde_json::to_string_pretty(&json::value(&report, false))? + "\n",
            Format::JsonPlus => serde_json::to_string_pretty(&json::value(&report, true))? + "\n",
        };
        match output {
            Some(mut file) => file.write_all(shown.as_bytes()).context("cannot write the report")?,
            None => output::line(shown.trim_end_matches('\n')).context("cannot print the report")?,
        }
        if let Some((entry, why)) = entries.iter().find_map(|entry| Some((entry, entry.statistics.failure()?))) {
            bail!("job {}: {why}", entry.job.name);
        }
        Ok(if watch.is_stopped() { EXIT_STOPPED.into() } else { ExitCode::SUCCESS })
    }
}

type Options = Vec<(String, Option<String>)>;

/// What belongs to this command, and the options of jobs.
fn split(all: Vec<String>) -> Result<(Vec<String>, Options)> {
    let command = Line::command();
    let takes_value = |name: &str| {
        let own = command.get_arguments().find(|argument| argument.get_long() == Some(name))?;
        Some(own.get_action().takes_values())
    };
    let (mut line, mut jobs) = (Vec::new(), Vec::new());
    let mut all = all.into_iter();
    while let Some(argument) = all.next() {
        let Some(option) = argument.strip_prefix("--") else {
            ensure!(!argument.starts_with('-') || argument == "-h", "{argument}: options are written --OPTION=VALUE");
            line.push(argument);
            continue;
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        match takes_value(name) {
            Some(takes) => {
                line.push(argument.clone());
                if takes && value.is_none() {
                    line.extend(all.next());
                }
            }
            None if name == "help" => line.push(argument),
            None => {
                let value = value.or_else(|| option::needs_value(name).then(|| all.next()).flatten());
                jobs.push((name.to_owned(), value));
            }
        }
    }
    Ok((line, jobs))
}

fn jobs_of(line: &Line, options: &Options) -> Result<Jobs> {
    match (&line.files[..], options.is_empty()) {
        ([], true) => bail!("no job: name a job file, or for example --name=a --rw=randread --runtime=10 --time_based"),
        ([], false) => Jobs::from_options(options),
        (files, true) => {
            let mut all = Jobs::default();
            for file in files {
                let more = Jobs::read(file)?;
                all.global.extend(more.global);
                all.jobs.extend(more.jobs);
            }
            Ok(all)
        }
        _ => bail!("jobs come either from job files or from the command line"),
    }
}

/// A report takes the place of what a file held: of nothing that holds a store or a file system.
fn ensure_report(path: &Path) -> Result<()> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    let shown = path.display();
    ensure!(!metadata.file_type().is_block_device(), "--output: {shown} is a block device; name a file");
    if metadata.is_file() && metadata.len() > 0 {
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let found = signature::probe(&file, metadata.len()).with_context(|| format!("cannot read {shown}"))?;
        let names = signature::names(&found);
        ensure!(
            found.is_empty(),
            "--output: {shown} contains: {names}; a report would overwrite it; name another file"
        );
    }
    Ok(())
}

/// The first ^C ends the jobs, and what they did is reported; the second ends the process.
fn end_on_signal(stop: &Arc<AtomicBool>) -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Threads that are started from here on inherit it: only the one that waits sees the signals.
    set.thread_block().context("blocking signals")?;
    let stop = Arc::clone(stop);
    let wait = move || {
        if set.wait().is_ok() {
            stop.store(true, Ordering::Relaxed);
            output::error("envoyfs bench: ending the jobs; once more ends the process at once");
        }
        if set.wait().is_ok() {
            std::process::exit(130);
        }
    };
    std::thread::Builder::new().name("bench-signals".into()).spawn(wait).context("starting a thread")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn own_options_may_stand_between_those_of_jobs() {
        let all = ["--name=a", "--output", "x", "--rw", "read", "--force", "--time_based", "--rounds=5", "a.fio"];
        let (line, jobs) = split(strings(&all)).unwrap();
        assert_eq!(line, ["--output", "x", "--force", "--rounds=5", "a.fio"]);
        let given: Vec<_> = jobs.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(given, [("name", Some("a")), ("rw", Some("read")), ("time_based", None)]);
    }

    #[test]
    fn files_and_jobs_on_the_command_line_are_not_mixed() {
        let line = |files: &[&str]| Line::try_parse_from(files).unwrap();
        assert!(jobs_of(&line(&["a.fio"]), &vec![("name".into(), Some("b".into()))]).is_err());
        assert!(jobs_of(&line(&[]), &Vec::new()).unwrap_err().to_string().contains("no job"));
    }
}
