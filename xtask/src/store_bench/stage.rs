//! Loop devices over shared memory and over files on disk, and their end.

use crate::stage::{Cleaner, call, require};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Pages of 2 MiB that are set aside for fio's buffers, and where.
const HUGE_PAGES: u64 = 16;
const HUGE_PAGES_AT: &str = "/proc/sys/vm/nr_hugepages";

/// fio as the engine's device layer does its reads and writes: direct, with registered buffers and file, and with buffers in pages of 2 MiB, as the engine's are. (A request of 1 MiB
/// from pages of 4 KiB is cut into pieces on its way down: that alone is a factor of 2 to 3 on a loop device over a file.) No polling in the kernel on either side.
pub const FIO_PEER: [&str; 5] =
    ["--ioengine=io_uring", "--direct=1", "--fixedbufs", "--registerfiles", "--mem=mmaphuge"];

/// `$1` and `$2`: directories of images, with a mount point `mnt` in the first. `$3`: huge pages to be had at the end.
const CLEANER: &str = r#"
echo "$3" > /proc/sys/vm/nr_hugepages
umount "$1/mnt" 2> /dev/null || umount -l "$1/mnt" 2> /dev/null
for image in "$1"/*.img "$2"/*.img; do
    [ -e "$image" ] || continue
    for device in $(losetup -n -O NAME -j "$image" 2> /dev/null); do losetup -d "$device"; done
    rm -f "$image"
done
rmdir "$1/mnt" "$1" "$2"
"#;

/// What a loop device lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A file in shared memory.
    Memory,
    /// A file on disk, with direct IO.
    Disk,
}

impl Medium {
    pub const BOTH: [Self; 2] = [Self::Memory, Self::Disk];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "loop over tmpfs",
            Self::Disk => "loop over a file on disk",
        }
    }
}

/// The place where all is measured. Dropping it takes everything away.
pub struct Stage {
    disk: PathBuf,
    memory: PathBuf,
    binaries: PathBuf,
    made: Cell<u32>,
    cleaner: Cleaner,
}

/// A loop device. Dropping it takes it and its image away.
pub struct Loop {
    pub device: String,
    image: PathBuf,
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The cleaner does it again at the end.
        let _ = call("losetup", &["-d", &self.device]);
        let _ = std::fs::remove_file(&self.image);
    }
}

impl Stage {
    pub fn build(parent: &Path, binaries: &Path) -> anyhow::Result<Self> {
        require(
            &["fio", "losetup", "mkfs.ext4", "mount", "umount", "truncate", "dd", "blockdev"],
            "fio e2fsprogs mount util-linux",
        )?;
        let name = format!("envoyfs-bench-store-{}", std::process::id());
        let (disk, memory) = (parent.join(&name), Path::new("/dev/shm").join(&name));
        for directory in [&disk, &memory] {
            std::fs::create_dir(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        std::fs::create_dir(disk.join("mnt"))?;
        let huge_pages = std::fs::read_to_string(HUGE_PAGES_AT).context(HUGE_PAGES_AT)?.trim().to_owned();
        let cleaner = Cleaner::start(CLEANER, &[&disk, &memory, &huge_pages])?;
        let more = huge_pages.parse::<u64>().context(HUGE_PAGES_AT)? + HUGE_PAGES;
        std::fs::write(HUGE_PAGES_AT, more.to_string()).context(HUGE_PAGES_AT)?;
        Ok(Self { disk, memory, binaries: binaries.to_path_buf(), made: Cell::new(0), cleaner })
    }

    fn image(&self, medium: Medium) -> PathBuf {
        self.made.set(self.made.get() + 1);
        let directory = if medium == Medium::Memory { &self.memory } else { &self.disk };
        directory.join(format!("{}.img", self.made.get()))
    }

    /// A loop device whose every block has been written.
    pub fn loop_device(&self, medium: Medium, mib: u64) -> anyhow::Result<Loop> {
        let image = self.image(medium);
        let shown = image.display().to_string();
        let mut arguments =
            vec!["if=/dev/zero".to_owned(), format!("of={shown}"), "bs=1M".into(), format!("count={mib}")];
        if medium == Medium::Disk {
            arguments.push("oflag=direct".into());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        call("dd", &arguments)?;
        self.attach(medium, image, 512)
    }

    /// A loop device over a file of holes, with logical blocks of so many bytes.
    pub fn sparse(&self, medium: Medium, mib: u64, block_bytes: u32) -> anyhow::Result<Loop> {
        let image = self.image(medium);
        call("truncate", &["-s", &format!("{mib}M"), &image.display().to_string()])?;
        self.attach(medium, image, block_bytes)
    }

    fn attach(&self, medium: Medium, image: PathBuf, block_bytes: u32) -> anyhow::Result<Loop> {
        let direct = if medium == Medium::Disk { "--direct-io=on" } else { "--direct-io=off" };
        let block = format!("--sector-size={block_bytes}");
        let device = call("losetup", &["--find", "--show", direct, &block, &image.display().to_string()])?;
        Ok(Loop { device: device.trim().to_owned(), image })
    }

    /// ext4 on a loop device, mounted.
    pub fn mount_ext4(&self, device: &Loop) -> anyhow::Result<String> {
        // Written now, not by a thread of the kernel while the others measure.
        call("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &device.device])?;
        let at = self.disk.join("mnt").display().to_string();
        call("mount", &[&device.device, &at])?;
        Ok(at)
    }

    pub fn umount(&self) -> anyhow::Result<()> {
        call("umount", &[&self.disk.join("mnt").display().to_string()]).map(drop)
    }

    /// fio's report.
    pub fn fio(&self, options: &[&str]) -> anyhow::Result<Value> {
        let all: Vec<&str> = ["--output-format=json"].into_iter().chain(options.iter().copied()).collect();
        report(&call("fio", &all)?)
    }

    /// `envoyfs bench`'s report: the same layout.
    pub fn bench(&self, options: &[&str]) -> anyhow::Result<Value> {
        let program = self.binaries.join("envoyfs").display().to_string();
        let own = ["bench", "--output-format=json", "--ioengine=envoyfs"];
        let all: Vec<&str> = own.into_iter().chain(options.iter().copied()).collect();
        report(&call(&program, &all)?)
    }

    /// The report of `fsck.envoyfs` of everything on a device, which must be clean, and how many seconds it took.
    pub fn check(&self, device: &Loop) -> anyhow::Result<(Value, f64)> {
        call("blockdev", &["--flushbufs", &device.device])?;
        let program = self.binaries.join("fsck-envoyfs").display().to_string();
        #[expect(clippy::disallowed_methods, reason = "another program is timed")]
        let start = std::time::Instant::now();
        let text = call(&program, &["-f", "-n", "--json", &device.device])?;
        let seconds = start.elapsed().as_secs_f64();
        let report = report(&text)?;
        let is_clean = report.get("clean").and_then(Value::as_bool) == Some(true);
        let is_whole = report.get("skipped").and_then(Value::as_bool) == Some(false);
        ensure!(is_clean && is_whole, "fsck.envoyfs found something, or looked at nothing: {report}");
        Ok((report, seconds))
    }

    /// A probe's answer.
    pub fn probe(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        report(&call(&self.binaries.join("store-probe").display().to_string(), arguments)?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.cleaner.finish() {
            eprintln!("xtask: look at {} and {}", self.disk.display(), self.memory.display());
        }
    }
}

fn report(text: &str) -> anyhow::Result<Value> {
    // fio may say something in front of it.
    let start = text.find('{').context("no report")?;
    serde_json::from_str(text.get(start..).unwrap_or_default()).context("a report that is no JSON")
}
