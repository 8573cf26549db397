//! `envoyfs umount`: sync, umount(2), and wait until the daemon has closed the store.

use super::control::{Directory, explain, open_directory};
use super::failure::Failure;
use super::mounts;
use crate::output;
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use envoyfs_fuse::commands::start_ticks;
use envoyfs_fuse::control::client;
use envoyfs_fuse::mount_point::{MountError, detach};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// After this long the user is told what is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Mount point.
    directory: PathBuf,
    /// Return at once after the unmount; the daemon closes the store meanwhile.
    #[arg(long)]
    no_wait: bool,
}

impl Arguments {
    /// Unmounts and waits.
    pub fn run(self) -> Result<()> {
        let path = mount_point(&self.directory)?;
        let (daemon, prepared) = match open_directory(&path) {
            Ok(directory) => {
                let prepared = client::unmount_prepare(&directory.descriptor);
                (Daemon::of(&directory), prepared)
            }
            // A mount whose daemon is gone is taken away all the same; there is nobody to wait for.
            Err(error) => {
                output::error(format_args!("envoyfs: {error:#}"));
                (None, Ok(()))
            }
        };
        detach(&path).map_err(|error| explain_detach(&path, error))?;
        if let Some(daemon) = daemon.filter(|_| !self.no_wait) {
            daemon.wait()?;
        }
        prepared.map_err(|error| explain(format!("{} is unmounted, but syncing it failed", path.display()), error))
    }
}

/// The path as mountinfo shows it. Touches the mount only through its parent.
fn mount_point(path: &Path) -> Result<PathBuf> {
    let mounts = mounts::all().context("reading /proc/self/mountinfo")?;
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let mut candidates = vec![absolute.clone()];
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = parent.canonicalize()
    {
        candidates.push(parent.join(name));
    }
    candidates.extend(absolute.canonicalize());
    for candidate in candidates {
        if let Some(mount) = mounts::at(&mounts, &candidate) {
            return if mount.is_envoyfs() { Ok(candidate) } else { Err(Failure::NotEnvoyfs(candidate).into()) };
        }
    }
    Err(Failure::NotEnvoyfs(path.to_path_buf()).into())
}

fn explain_detach(path: &Path, error: MountError) -> anyhow::Error {
    match error {
        MountError::Unmount { cause, .. } if cause.kind() == ErrorKind::ResourceBusy => {
            let why = format!("files are open or a shell is in it ('fuser -vm {}' shows who)", path.display());
            Failure::Busy { path: path.to_path_buf(), why }.into()
        }
        MountError::Unmount { cause, .. } if cause.kind() == ErrorKind::PermissionDenied => {
            Failure::Denied(format!("{}: only root and who mounted it may unmount it", path.display())).into()
        }
        other => anyhow!(other),
    }
}

/// The process that serves a mount. Its end is the store's closing.
struct Daemon {
    process: OwnedFd,
    pid: u32,
}

impl Daemon {
    /// `None` when it cannot be told which process it is, as across pid namespaces.
    fn of(directory: &Directory) -> Option<Self> {
        let pid = directory.status.pid.get();
        let process = Pid::from_raw(i32::try_from(pid).ok()?)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            // Asked after opening: if it is the same process now, the descriptor is of that process.
            .filter(|_| start_ticks(pid) == Some(directory.status.start_ticks.get()));
        if process.is_none() {
            output::error(format_args!("envoyfs: daemon {pid} is not visible from here, so its end is not waited for"));
        }
        Some(Self { process: process?, pid })
    }

    fn wait(&self) -> Result<()> {
        let mut patience = Some(&PATIENCE);
        loop {
            match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], patience) {
                Ok(0) => {
                    output::error(format_args!(
                        "envoyfs: unmounted and durable; waiting for daemon {} to close the store (or it is mounted \
                         elsewhere too; interrupting is safe)",
                        self.pid
                    ));
                    patience = None;
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(anyhow!(std::io::Error::from(errno)).context("waiting for the daemon")),
            }
        }
    }
}
