//! Becoming a daemon: this program starts itself again and waits until the child says that it is mounted.
//!
//! Starting again instead of a bare fork: threads and io_uring begin in the process that keeps them. The child's standard
//! output is the wire to the parent, its standard error stays the user's until it is ready.

use super::options::{Arguments, Settings};
use super::{EXIT_FAILED, EXIT_USAGE, serve, signals};
use crate::output;
use anyhow::{Context as _, Result};
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

const READY: &str = "ready\n";

/// Mounts as the arguments say. Returns when the mount is there (daemon), or when it has ended (foreground).
///
/// The exit status is that of mount(8): 0, 1 for wrong arguments, 32 for a failure; errors are printed with `program`'s
/// name.
#[must_use]
pub fn start(program: &str, arguments: &Arguments) -> ExitCode {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = match Settings::from_arguments(arguments, rustix::process::geteuid().is_root(), processors) {
        Ok(settings) => settings,
        Err(error) => {
            output::error(format_args!("{program}: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let has_log = settings.log.is_some();
    let result = if arguments.daemon_child {
        become_daemon(settings)
    } else if settings.foreground {
        run(&settings, || Ok(()))
    } else {
        match start_child() {
            Ok(code) => return code,
            Err(error) => Err(error),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The child's error stream is the user's terminal until it is ready. Without a log of its own that is where the log goes too.
            output::error(format_args!("{program}: {error:#}"));
            if has_log {
                tracing::error!("{error:#}");
            }
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Starts this program again with the same arguments and waits for its word.
fn start_child() -> Result<ExitCode> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "mount.envoyfs".into());
    let mut child = Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .arg("--daemon-child")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon from /proc/self/exe (is /proc mounted?)")?;
    let mut said = String::new();
    if let Some(mut wire) = child.stdout.take() {
        wire.read_to_string(&mut said).context("waiting for the daemon")?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("waiting for the daemon")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0);
    if code.is_none() {
        output::error(format_args!("envoyfs: the daemon ended without a word ({status})"));
    }
    Ok(ExitCode::from(code.unwrap_or(EXIT_FAILED)))
}

fn become_daemon(mut settings: Settings) -> Result<()> {
    rustix::process::setsid().context("starting a session")?;
    // Otherwise it would be listed as "exe", after the link that it was started from.
    rustix::thread::set_name(c"mount.envoyfs").context("naming the process")?;
    // Paths are given relative to where the user is; the daemon must not keep that directory busy.
    for path in [&mut settings.directory, &mut settings.mount.source] {
        *path = std::path::absolute(&*path).with_context(|| format!("resolving {}", path.display()))?;
    }
    if let Some(log) = &mut settings.log {
        *log = std::path::absolute(&*log).with_context(|| format!("resolving {}", log.display()))?;
    }
    std::env::set_current_dir("/").context("leaving the current directory")?;
    run(&settings, || {
        let mut out = std::io::stdout();
        out.write_all(READY.as_bytes()).and_then(|()| out.flush()).context("telling the parent")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(())
    })
}

fn run(settings: &Settings, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    // Before any thread exists, so that all of them inherit the mask.
    let signals = signals::block().context("blocking signals")?;
    start_log(settings)?;
    stop_at_panics();
    serve::run(settings, signals, ready)
}

fn start_log(settings: &Settings) -> Result<()> {
    // Without a log of its own the daemon speaks on the user's terminal, until it is mounted: only of what is not as it should be.
    let has_reader = settings.foreground || settings.log.is_some();
    let default = if settings.verbose {
        "debug"
    } else if has_reader {
        "info"
    } else {
        "warn"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ENVOYFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).log_internal_errors(false);
    match &settings.log {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("opening the log file {}", path.display()))?;
            log.with_writer(file).init();
        }
        None => log.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// A thread that panics leaves requests unanswered for ever. The process ends instead: clients get errors at once, and the
/// next mount replays the log.
fn stop_at_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("panic, ending at once: {panic}");
        std::process::abort();
    }));
}
