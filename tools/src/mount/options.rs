//! Command line and `-o` list of a mount.

use crate::mkfs::size::Size;
use clap::Args;
use envoyfs_engine::{HistoryPolicy, Settings as EngineSettings};
use envoyfs_fuse::mount_point::MountOptions;
use std::path::PathBuf;
use thiserror::Error;

/// Bytes of nodes kept in memory unless `-o cache=SIZE` says otherwise.
const NODE_CACHE_BYTES: u64 = 128 << 20;
/// Least that `-o engine_cache=SIZE` and `-o dirty=SIZE` may be.
const ENGINE_BYTES_MIN: u64 = 1 << 20;
/// Threads unless told otherwise: more gain nothing while handlers seldom block.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;
const THREADS_MAX: usize = 64;
/// Most checkpoints that `-o history=N` keeps.
const HISTORY_MAX: u32 = 256;

/// Arguments of `mount.envoyfs` and `envoyfs mount`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Block device or image file with a store.
    pub store: PathBuf,
    /// Directory to mount it on.
    pub directory: PathBuf,
    /// Mount options, separated by commas: ro, rw, noatime, dev, nodev, suid, nosuid, exec, noexec, sync, allow_other,
    /// threads=N, cache=SIZE, engine_cache=SIZE, dirty=SIZE, log=FILE, accept_loss, history=N, history_age=TIME, at=TIME.
    #[arg(short = 'o', long = "options", value_name = "LIST")]
    pub options: Vec<String>,
    /// Stay in the foreground and log to standard error.
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Threads that serve requests.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Refuse changes; the same as -o ro.
    #[arg(short = 'r', long)]
    pub read_only: bool,
    /// Accepted for mount(8): ignore options that are not known.
    #[arg(short = 's', hide = true)]
    pub sloppy: bool,
    /// Accepted for mount(8) and ignored: there is no mtab to write.
    #[arg(short = 'n', hide = true)]
    pub no_mtab: bool,
    /// Say more.
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Accepted for mount(8) and ignored.
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    pub kind: Option<String>,
    /// Set by the parent in the process that becomes the daemon.
    #[arg(long, hide = true)]
    pub daemon_child: bool,
}

/// An option that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OptionError {
    /// Not known.
    #[error("unknown mount option '{0}' (see mount.envoyfs(8))")]
    Unknown(String),
    /// The value makes no sense.
    #[error("mount option '{option}': {why}")]
    Value {
        /// The option as given.
        option: String,
        /// What is wrong.
        why: String,
    },
    /// Known elsewhere, not offered here.
    #[error("mount option '{0}' is not offered: {1}")]
    NotOffered(&'static str, &'static str),
}

/// What the arguments mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For the mount itself; its source is the store's path.
    pub mount: MountOptions,
    /// Where it is mounted.
    pub directory: PathBuf,
    /// Bytes of nodes kept in memory.
    pub node_cache_bytes: u64,
    /// Bounds of the engine's memory; its history is `history`.
    pub engine: EngineSettings,
    /// Where the daemon's log goes; nowhere if not given.
    pub log: Option<PathBuf>,
    /// Go on although acknowledged records are damaged.
    pub accept_loss: bool,
    /// Which checkpoints stay readable.
    pub history: HistoryPolicy,
    /// Show the newest checkpoint kept that is not newer than this, nanoseconds since 1970; read-only.
    pub at: Option<i64>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Log more.
    pub verbose: bool,
}

impl Settings {
    /// From the arguments; `is_root` decides the defaults.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn from_arguments(arguments: &Arguments, is_root: bool, processors: usize) -> Result<Self, OptionError> {
        let mut settings = Self {
            mount: MountOptions {
                source: arguments.store.clone(),
                read_only: arguments.read_only,
                // Strangers' device files and set-id programs are honoured only where root decided to mount.
                no_dev: !is_root,
                no_suid: !is_root,
                no_exec: false,
                no_atime: false,
                sync: false,
                allow_other: is_root,
                threads: processors.clamp(*THREADS.start(), *THREADS.end()),
            },
            directory: arguments.directory.clone(),
            node_cache_bytes: NODE_CACHE_BYTES,
            engine: EngineSettings::default(),
            log: None,
            accept_loss: false,
            history: HistoryPolicy::NONE,
            at: None,
            foreground: arguments.foreground,
            verbose: arguments.verbose,
        };
        let list = arguments.options.iter().flat_map(|list| list.split(',')).map(str::trim);
        for option in list.filter(|option| !option.is_empty()) {
            match settings.apply(option, is_root) {
                Err(OptionError::Unknown(_)) if arguments.sloppy => {}
                result => result?,
            }
        }
        if let Some(threads) = arguments.threads {
            settings.mount.threads = checked_threads("--threads", threads)?;
        }
        Ok(settings)
    }

    fn apply(&mut self, option: &str, is_root: bool) -> Result<(), OptionError> {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let bad = |why: &str| OptionError::Value { option: option.to_owned(), why: why.to_owned() };
        let needed = || value.filter(|value| !value.is_empty()).ok_or_else(|| bad("needs a value"));
        let mount = &mut self.mount;
        match name {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "noatime" => mount.no_atime = true,
            "dev" | "suid" if !is_root => return Err(bad("only root may ask for this")),
            "dev" => mount.no_dev = false,
            "nodev" => mount.no_dev = true,
            "suid" => mount.no_suid = false,
            "nosuid" => mount.no_suid = true,
            "exec" => mount.no_exec = false,
            "noexec" => mount.no_exec = true,
            "sync" => mount.sync = true,
            "async" => mount.sync = false,
            "allow_other" => mount.allow_other = true,
            "threads" => {
                let threads = needed()?.parse().map_err(|_| bad("is not a number"))?;
                mount.threads = checked_threads(option, threads)?;
            }
            "cache" => self.node_cache_bytes = needed()?.parse::<Size>().map_err(|why| bad(&why))?.0,
            "engine_cache" => self.engine = self.engine.clone().with_cache(checked_memory(option, needed()?)?),
            "dirty" => self.engine = self.engine.clone().with_dirty(checked_memory(option, needed()?)?),
            "log" => self.log = Some(PathBuf::from(needed()?)),
            "accept_loss" => self.accept_loss = true,
            "history" => {
                let count = needed()?.parse().ok().filter(|count| *count <= HISTORY_MAX);
                let checkpoints_max = count.ok_or_else(|| bad(&format!("must be 0 to {HISTORY_MAX}")))?;
                let age_ms_max = self.history.age_ms_max.max(HistoryPolicy::default().age_ms_max);
                self.history = HistoryPolicy { checkpoints_max, age_ms_max, ..HistoryPolicy::default() };
            }
            "history_age" => {
                let age = humantime::parse_duration(needed()?).map_err(|why| bad(&why.to_string()))?;
                let age_ms_max = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let checkpoints_max = self.history.checkpoints_max.max(HistoryPolicy::default().checkpoints_max);
                self.history = HistoryPolicy { checkpoints_max, age_ms_max, ..HistoryPolicy::default() };
            }
            "at" => {
                let time = humantime::parse_rfc3339_weak(needed()?)
                    .map_err(|_| bad("is not a time like 2026-11-22T08:00:00Z, as 'envoyfs history' prints it"))?;
                let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| bad("is before 1970"))?;
                self.at = Some(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
                mount.read_only = true;
            }
            "remount" => return Err(OptionError::NotOffered("remount", "unmount, then mount with the new options")),
            "dirsync" => return Err(OptionError::NotOffered("dirsync", "use fsync on the directory, or envoyfs sync")),
            "mand" => return Err(OptionError::NotOffered("mand", "Linux has no mandatory locks any more")),
            // Reads are never recorded, so how often they would be makes no difference; permissions are always checked;
            // the rest is for mount(8) and for whoever reads fstab.
            "atime"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "nostrictatime"
            | "diratime"
            | "nodiratime"
            | "lazytime"
            | "nolazytime"
            | "default_permissions"
            | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev"
            | "silent"
            | "loud"
            | "nomand" => {}
            _ if name.starts_with("x-") || name.starts_with("X-") || name == "comment" => {}
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }
}

fn checked_memory(option: &str, value: &str) -> Result<u64, OptionError> {
    let bad = |why| OptionError::Value { option: option.to_owned(), why };
    let bytes = value.parse::<Size>().map_err(bad)?.0;
    if bytes < ENGINE_BYTES_MIN {
        return Err(bad(format!("must be at least {}", Size(ENGINE_BYTES_MIN))));
    }
    Ok(bytes)
}

fn checked_threads(option: &str, threads: usize) -> Result<usize, OptionError> {
    if (1..=THREADS_MAX).contains(&threads) {
        return Ok(threads);
    }
    Err(OptionError::Value { option: option.to_owned(), why: format!("must be 1 to {THREADS_MAX}") })
}

#[cfg(test)]
mod tests;
