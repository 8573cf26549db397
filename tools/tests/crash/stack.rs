//! A store with everything on it: made, opened, compared, closed and checked.

use crate::common::{CX, Seen, assert_links, assert_totals, dump_below};
use envoyfs_engine::device::{Device, DeviceImage, SimulatedDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock, ManualClock};
use envoyfs_engine::store::{Reason, Store as _};
use envoyfs_engine::{Engine, Options as EngineOptions, Settings};
use envoyfs_layout::{ClientTag, Lsn};
use envoyfs_namespace::api::*;
use envoyfs_namespace::{Namespace, Options};
use envoyfs_tools::fsck::findings::Severity;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that a front end can see, by path; of contents only a digest and the length.
pub type Tree = BTreeMap<String, Seen>;

const START_NS: i64 = 1_700_000_000_000_000_000;

/// Clocks of one run.
pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_NS))
}

/// A store of so many MiB with small segments and a small log.
pub fn make(device: &dyn Device, wal_bytes: u64, segment_bytes: u32) {
    let options = FormatOptions {
        label: "crash".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: START_NS,
        wal_bytes: Some(wal_bytes),
        segment_bytes: Some(segment_bytes),
        force: false,
        small: true,
    };
    format(device, &options).unwrap();
}

/// An empty store on a simulated device.
pub fn fresh(mib: u64, wal_kib: u64, block_bytes: u32) -> DeviceImage {
    let device = SimulatedDevice::new(mib << 20, block_bytes, 1);
    make(&device, wal_kib << 10, 256 << 10);
    device.durable_image()
}

/// An open store.
pub struct Stack {
    pub engine: Arc<Engine>,
    pub ns: Arc<Namespace>,
    /// End of the log that recovery found.
    pub end: Lsn,
}

/// Mounts. Without threads everything is deterministic.
pub fn open(device: Arc<dyn Device>, clock: Arc<dyn Clock>, threads: bool) -> std::result::Result<Stack, String> {
    let options = EngineOptions { read_only: false, threads, accept_loss: false, clock, settings: Settings::default() };
    let engine = Engine::open_for(ClientTag::FILES, device, options).map_err(|error| format!("engine: {error}"))?;
    if !engine.read_only().is_empty() {
        return Err(format!("opens only for reading: {}", engine.read_only()));
    }
    let (end, engine) = (engine.recovered_end(), Arc::new(engine));
    let options = Options { node_cache_bytes: 1 << 20, threads, read_only: false, seed: [7; 16] };
    let ns = Namespace::open(engine.clone(), options).map_err(|error| format!("namespace: {error}"))?;
    Ok(Stack { engine, ns, end })
}

/// What can be seen from a directory on. Realms in the upper half of the index space get another index in each mount (decision 0003): of their identities only the number
/// counts.
pub fn tree(ns: &Namespace, root: InodeId) -> Tree {
    let mut tree = dump_below(ns, root);
    for seen in tree.values_mut() {
        let mut digest = envoyfs_layout::checksum::hash64(&seen.contents).to_le_bytes().to_vec();
        digest.extend_from_slice(&seen.contents.len().to_le_bytes());
        seen.contents = digest;
        if seen.id.0 >> 63 == 1 {
            seen.id.0 &= (1 << 40) - 1;
        }
    }
    tree
}

/// What two trees differ in; empty if in nothing.
pub fn difference(found: &Tree, expected: &Tree) -> String {
    let mut out = String::new();
    let paths: std::collections::BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    for path in paths {
        let (found, expected) = (found.get(path), expected.get(path));
        if found != expected {
            out += &format!("{path}:\n  found    {found:?}\n  expected {expected:?}\n");
        }
    }
    out
}

impl Stack {
    /// What an operation waits for when there are no threads.
    pub fn tend(&self) -> Result<()> {
        self.engine.pump()?;
        while self.engine.wait_checkpoint(0) == Some(Reason::Log) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// A checkpoint, which always finds room (INV-26).
    pub fn checkpoint(&self) -> Result<()> {
        let before = self.engine.usage();
        let result = self.ns.checkpoint();
        assert!(!matches!(result, Err(Error::NoSpace)), "a checkpoint finds no room: {before:?}");
        result
    }

    /// Ends the mount, checks what it left.
    pub fn close_and_check(self, device: &SimulatedDevice, what: &str) {
        let seen = dump_below(&self.ns, InodeId::ROOT);
        self.ns.close().unwrap_or_else(|error| panic!("{what}: close: {error}"));
        assert_links(&seen);
        assert_totals(&self.ns, &seen);
        let contradictions = self.engine.check_space();
        assert!(contradictions.is_empty(), "{what}: {contradictions:?}");
        drop(self.ns);
        self.engine.close().unwrap_or_else(|error| panic!("{what}: closing the engine: {error}"));
        check(&device.image(), Severity::Note, what);
    }
}

/// `fsck.envoyfs` finds nothing worse than `worst`.
pub fn check(image: &DeviceImage, worst: Severity, what: &str) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("image");
    image.to_file(&path).unwrap();
    let options = envoyfs_tools::fsck::Options::default();
    let report = envoyfs_tools::fsck::check(&path, options).unwrap_or_else(|error| panic!("{what}: fsck: {error:#}"));
    let bad = report.findings.iter().any(|finding| finding.kind.severity > worst);
    assert!(!bad, "{what}: fsck:\n{report}");
}

/// Runs `act` on the inode of a path; the lookup counts are given back.
pub fn at<T>(ns: &Namespace, root: InodeId, path: &str, act: impl FnOnce(InodeId) -> Result<T>) -> Result<T> {
    let mut held = Vec::new();
    let mut id = root;
    let mut found = Ok(());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match ns.lookup(&CX, id, name.as_bytes()) {
            Ok(attributes) => {
                id = attributes.id;
                held.push(id);
            }
            Err(error) => {
                found = Err(error);
                break;
            }
        }
    }
    let result = found.and_then(|()| act(id));
    held.into_iter().rev().for_each(|id| ns.forget(id, 1));
    result
}

/// As [`at`], with the directory of a path and its last name.
pub fn inside<T>(
    ns: &Namespace,
    root: InodeId,
    path: &str,
    act: impl FnOnce(InodeId, &[u8]) -> Result<T>,
) -> Result<T> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    at(ns, root, directory, |id| act(id, name.as_bytes()))
}
