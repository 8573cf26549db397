//! A store with a mount, for tests of what users see.

use super::{Answer, Images, run};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn envoyfs(arguments: &[&str]) -> Answer {
    limited(env!("CARGO_BIN_EXE_envoyfs"), arguments)
}

/// Under timeout(1): a hang is a failure and not the end of the run.
pub fn limited(program: &str, arguments: &[&str]) -> Answer {
    run("timeout", &[&["-k", "5", "60", program], arguments].concat())
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Formatted stores and mounts that go away with the test.
pub struct Bench {
    pub images: Images,
    pub store: String,
    pub at: PathBuf,
}

impl Bench {
    /// `None`, with a message, where there is no FUSE.
    pub fn new(test: &str) -> Option<Self> {
        Self::with_store(test, "128MiB")
    }

    /// The same on a store of this size.
    pub fn with_store(test: &str, size: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            super::skip(format!("{test}: no /dev/fuse here"));
            return None;
        }
        let images = Images::new();
        let store = images.path("store.img");
        let answer = super::mkfs(&["--size", size, &store]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let at = PathBuf::from(images.path("mnt"));
        fs::create_dir(&at).unwrap();
        let bench = Self { images, store, at };
        bench.mount(&[]);
        Some(bench)
    }

    pub fn try_mount(&self, options: &[&str]) -> Answer {
        let log = format!("log={}", self.images.path("daemon.log"));
        let fixed = [self.store.as_str(), text(&self.at), "-o", &log];
        limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&fixed, options].concat())
    }

    pub fn mount(&self, options: &[&str]) {
        let answer = self.try_mount(options);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
    }

    pub fn umount(&self) {
        let answer = envoyfs(&["umount", text(&self.at)]);
        assert_eq!(answer.code, 0, "{answer:?}\n{}", self.log());
    }

    pub fn remount(&self) {
        self.umount();
        self.mount(&[]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.images.path("daemon.log")).unwrap_or_default()
    }

    pub fn status(&self) -> serde_json::Value {
        let answer = envoyfs(&["status", "--json", text(&self.at)]);
        assert_eq!(answer.code, 0, "{answer:?}");
        serde_json::from_str(&answer.stdout).unwrap()
    }

    /// Sends the daemon a signal that ends it, and waits until all of it is gone: its threads, what it holds, what it logged.
    pub fn end_daemon(&self, signal: Signal) {
        let pid = self.status().get("daemon_pid").and_then(serde_json::Value::as_i64).unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&process, signal).unwrap();
        let patience = Timespec { tv_sec: 180, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ended, 1, "the daemon {pid:?} does not end\n{}", self.log());
    }

    /// Live bytes as of the last checkpoint.
    pub fn live_bytes(&self) -> u64 {
        self.status().get("live_bytes").and_then(serde_json::Value::as_u64).unwrap()
    }

    /// Waits until the store has given back what was deleted.
    pub fn wait_for_reclaim(&self, live_bytes: u64) {
        for _ in 0..120 {
            if self.live_bytes() <= live_bytes {
                return;
            }
            drop(run("sleep", &["0.5"]));
        }
        panic!("{} bytes are live after a minute: {}", self.live_bytes(), self.status());
    }

    /// Unmounts and checks the store.
    pub fn end(&self) {
        self.umount();
        let answer = super::fsck(&["-fn", &self.store]);
        assert_eq!(answer.code, 0, "{answer:?}");
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(text(&self.at)))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("daemon's log:\n{}", self.log());
        }
        if self.is_mounted() {
            // Force ends the connection, so that nothing of the test can keep it.
            drop(Command::new("umount").args(["-f", text(&self.at)]).stderr(Stdio::null()).status());
            drop(Command::new("umount").args(["-l", text(&self.at)]).stderr(Stdio::null()).status());
        }
    }
}
