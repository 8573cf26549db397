//! What the processes do: steps drawn from a seed, so that the judge can draw them again; each is one system call.

use envoyfs_fuse::control::client;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const VARIABLE: &str = "ENVOYFS_KILL_LOAD";

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    fn pick<'a>(&mut self, from: &[&'a String]) -> &'a String {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Bytes that occur nowhere else.
fn content(seed: u64, length: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(length as usize);
    bytes
}

/// One system call.
#[derive(Debug)]
pub enum Step {
    Create(String),
    MakeDirectory(String),
    Write {
        name: String,
        offset: u64,
        length: u64,
        seed: u64,
    },
    Truncate(String, u64),
    Rename(String, String),
    Link(String, String),
    Unlink(String),
    Fork(String),
    Delete(String),
    /// Nothing changes; all before is acknowledged when it returns.
    SyncFile(String),
    SyncDirectory,
    SyncAll,
}

impl Step {
    /// The kernel may make several requests of a write, divided at pages: every state in between may be what a crash leaves.
    pub fn parts(self) -> Vec<Self> {
        let Self::Write { name, offset, length, seed } = self else { return vec![self] };
        let ends = (offset + 1..offset + length).filter(|end| end % 4096 == 0).chain([offset + length]);
        ends.map(|end| Self::Write { name: name.clone(), offset, length: end - offset, seed }).collect()
    }
}

/// What a directory is to hold. "t" is forked to "g...".
#[derive(Default)]
pub struct Model {
    directories: BTreeSet<String>,
    names: BTreeMap<String, u64>,
    files: BTreeMap<u64, Vec<u8>>,
    numbers: Cell<u64>,
}

/// What can be seen: of directories nothing but the name, of files names, length and digest.
pub type View = BTreeMap<String, Option<(u64, u64, u64)>>;

impl Model {
    fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Draws the next step.
    pub fn next(&self, random: &mut Random) -> Step {
        if self.directories.is_empty() {
            return Step::MakeDirectory("t".into());
        }
        let all: Vec<&String> = self.names.keys().collect();
        let own: Vec<&String> = self.names.keys().filter(|name| !name.starts_with('g')).collect();
        let forks: Vec<&String> = self.directories.iter().filter(|name| name.starts_with('g')).collect();
        let what = random.below(40);
        if own.len() < 3 || (what < 4 && own.len() < 30) {
            let place = if random.below(2) == 0 { "t/" } else { "" };
            return Step::Create(format!("{place}f{}", self.number()));
        }
        let name = random.pick(&own).clone();
        let new = format!("{}f{}", if random.below(2) == 0 { "t/" } else { "" }, self.number());
        match what {
            0..=16 => {
                let name = random.pick(&all).clone();
                let size = self.files[&self.names[&name]].len() as u64;
                let offset = [0, size, size, 4096 * random.below(16), random.below(50_000)][random.below(5) as usize];
                let length = [10, 300, 4096, 9000, 65_536, 100_001][random.below(6) as usize];
                let (offset, length) = if size > 400_000 { (0, 4096) } else { (offset, length) };
                Step::Write { name, offset, length, seed: random.next() }
            }
            17 => Step::Truncate(name, random.below(60_000)),
            18..=20 => Step::Rename(name, new),
            21 | 22 => {
                let over = random.pick(&own).clone();
                // Renaming one name of a file over another does nothing; the model knows only the usual case.
                if self.names[&over] == self.names[&name] { Step::SyncDirectory } else { Step::Rename(name, over) }
            }
            23 | 24 => Step::Link(name, new),
            25..=27 if own.len() > 6 => Step::Unlink(name),
            28 if forks.len() < 4 => Step::Fork(format!("g{}", self.number())),
            29 if !forks.is_empty() => Step::Delete(random.pick(&forks).clone()),
            30..=35 => Step::SyncFile(random.pick(&all).clone()),
            36 => Step::SyncAll,
            _ => Step::SyncDirectory,
        }
    }

    /// Does it to the model.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(name) => {
                let number = self.number();
                self.names.insert(name.clone(), number);
                self.files.insert(number, Vec::new());
            }
            Step::MakeDirectory(name) => drop(self.directories.insert(name.clone())),
            Step::Write { name, offset, length, seed } => {
                let file = self.files.get_mut(&self.names[name]).unwrap();
                let (start, end) = (*offset as usize, (*offset + *length) as usize);
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(&content(*seed, *length));
            }
            Step::Truncate(name, size) => {
                let file = self.files.get_mut(&self.names[name]).unwrap();
                file.resize(*size as usize, 0);
            }
            Step::Rename(from, to) => {
                let number = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), number);
            }
            Step::Link(from, to) => drop(self.names.insert(to.clone(), self.names[from])),
            Step::Unlink(name) => drop(self.names.remove(name)),
            Step::Fork(to) => {
                self.directories.insert(to.clone());
                let inside: Vec<(String, u64)> = self
                    .names
                    .iter()
                    .filter_map(|(name, number)| Some((name.strip_prefix("t/")?.to_string(), *number)))
                    .collect();
                let mut copies = BTreeMap::new();
                for (name, number) in inside {
                    let copy = *copies.entry(number).or_insert_with(|| self.number());
                    self.files.insert(copy, self.files[&number].clone());
                    self.names.insert(format!("{to}/{name}"), copy);
                }
            }
            Step::Delete(name) => {
                self.directories.remove(name);
                let below = format!("{name}/");
                self.names.retain(|name, _| !name.starts_with(&below));
            }
            Step::SyncFile(_) | Step::SyncDirectory | Step::SyncAll => {}
        }
        let used: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| used.contains(number));
    }

    /// What is to be seen.
    pub fn view(&self) -> View {
        let links = |number: u64| self.names.values().filter(|other| **other == number).count() as u64;
        let files = self.names.iter().map(|(name, number)| {
            let bytes = &self.files[number];
            (name.clone(), Some((links(*number), bytes.len() as u64, envoyfs_layout::checksum::hash64(bytes))))
        });
        self.directories.iter().map(|name| (name.clone(), None)).chain(files).collect()
    }
}

/// What is there.
pub fn view(directory: &Path) -> View {
    let mut view = View::new();
    let mut next = vec![directory.to_path_buf()];
    while let Some(at) = next.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_string();
            let metadata = fs::metadata(&path).unwrap();
            if metadata.is_dir() {
                next.push(path);
                view.insert(name, None);
            } else {
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let digest = envoyfs_layout::checksum::hash64(&bytes);
                view.insert(name, Some((metadata.nlink(), metadata.len(), digest)));
            }
        }
    }
    view
}

/// Where two differ; empty if nowhere.
pub fn difference(found: &View, expected: &View) -> String {
    let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let differing = names.into_iter().filter(|name| found.get(*name) != expected.get(*name));
    let lines = differing.map(|name| {
        format!("  {name}: (names, bytes, digest) {:?}, expected {:?}", found.get(name), expected.get(name))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The barrier of the mount.
pub fn sync(mount: &Path) -> io::Result<()> {
    client::sync(File::open(mount)?)
}

/// Deletes a tree at once.
pub fn delete(parent: &Path, name: &OsStr) -> io::Result<()> {
    client::delete(File::open(parent)?, name.as_bytes())
}

/// One process.
pub struct Worker {
    pub seed: u64,
    pub directory: PathBuf,
    pub log: PathBuf,
}

impl Worker {
    /// Starts the process.
    pub fn start(&self) -> Child {
        let what = format!("{}\n{}\n{}", self.seed, self.directory.display(), self.log.display());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "load_process", "--ignored", "--nocapture"])
            .env(VARIABLE, what)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// In the process: what it is to do.
    pub fn from_environment() -> Option<Self> {
        let what = std::env::var(VARIABLE).ok()?;
        let mut lines = what.lines();
        let seed = lines.next()?.parse().ok()?;
        Some(Self { seed, directory: lines.next()?.into(), log: lines.next()?.into() })
    }

    /// Goes on until the mount fails.
    pub fn run(&self) {
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut random = Random(self.seed);
        let mut model = Model::default();
        for number in 1_usize.. {
            let step = model.next(&mut random);
            log.write_all(format!("B {number}\n").as_bytes()).unwrap();
            if let Err(error) = self.perform(&step) {
                let errno = error.raw_os_error().unwrap_or(0);
                log.write_all(format!("E {errno} {number} {step:?}: {error}\n").as_bytes()).unwrap();
                return;
            }
            if matches!(step, Step::SyncFile(_) | Step::SyncDirectory | Step::SyncAll) {
                log.write_all(format!("A {number}\n").as_bytes()).unwrap();
            }
            model.apply(&step);
        }
    }

    fn perform(&self, step: &Step) -> io::Result<()> {
        let path = |name: &String| self.directory.join(name);
        let writable = |name: &String| OpenOptions::new().write(true).open(path(name));
        match step {
            Step::Create(name) => File::create_new(path(name)).map(drop),
            Step::MakeDirectory(name) => fs::create_dir(path(name)),
            Step::Write { name, offset, length, seed } => {
                // Fewer are written at once only if the daemon dies on the way.
                writable(name)?.write_all_at(&content(*seed, *length), *offset)
            }
            Step::Truncate(name, size) => writable(name)?.set_len(*size),
            Step::Rename(from, to) => fs::rename(path(from), path(to)),
            Step::Link(from, to) => fs::hard_link(path(from), path(to)),
            Step::Unlink(name) => fs::remove_file(path(name)),
            Step::Fork(to) => {
                let source = File::open(self.directory.join("t"))?;
                client::fork(File::open(&self.directory)?, source.metadata()?.ino(), to.as_bytes())
            }
            Step::Delete(name) => delete(&self.directory, OsStr::new(name)),
            Step::SyncFile(name) => {
                let file = writable(name)?;
                if name.len() % 2 == 0 { file.sync_all() } else { file.sync_data() }
            }
            Step::SyncDirectory => File::open(&self.directory)?.sync_all(),
            Step::SyncAll => sync(&self.directory),
        }
    }
}

/// What a process noted.
#[derive(Default)]
pub struct Log {
    /// Steps begun.
    pub begun: usize,
    /// Steps that were acknowledged.
    pub acknowledged: usize,
    /// How often something was.
    pub acknowledgements: usize,
    error: Option<(i32, String)>,
}

impl Log {
    pub fn read(path: &Path) -> Self {
        let mut log = Self::default();
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let (kind, rest) = line.split_once(' ').unwrap();
            let (first, _) = rest.split_once(' ').unwrap_or((rest, ""));
            match kind {
                "B" => log.begun = first.parse().unwrap(),
                "A" => {
                    log.acknowledged = first.parse().unwrap();
                    log.acknowledgements += 1;
                }
                _ => log.error = Some((first.parse().unwrap(), rest.to_string())),
            }
        }
        log
    }

    /// Only a dead daemon ends a process.
    pub fn check_error(&self) -> Result<(), String> {
        match &self.error {
            Some((libc::ENOTCONN | libc::ECONNABORTED, _)) | None => Ok(()),
            Some((_, what)) => Err(format!("a step failed on a living mount: {what}")),
        }
    }
}
