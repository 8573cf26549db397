//! What the tests of checking and repairing share: small stores on the simulated device, and a surgeon who makes them inconsistent through the layout's own encoders.
#![allow(dead_code, reason = "each test uses its part")]

use crate::common::{CX, Random, dump_below};
use envoyfs_engine::device::{Device, DeviceImage, SimulatedDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::{Engine, Options as EngineOptions};
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{DirectoryPage, SegmentTable, TableBase, VolumeDirectory};
use envoyfs_layout::node::{NodeBuilder, NodeHeader, NodeView};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::{ClientTag, Oid, Reference, ReferenceKind};
use envoyfs_namespace::api::*;
use envoyfs_namespace::{Namespace, Options};
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings::{By, Kind};
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::{Settings, repair_disk};
use envoyfs_tools::fsck::report::Report;
use envoyfs_tools::fsck::{Options as CheckOptions, check_disk};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub const START_NS: i64 = 1_700_000_000_000_000_000;

/// What is seen of a tree: contents and link counts by path.
pub type Tree = BTreeMap<String, crate::common::Seen>;

/// An open store without threads.
pub struct Mounted {
    pub engine: Arc<Engine>,
    pub ns: Arc<Namespace>,
}

/// An empty store of so many MiB, with segments of 256 KiB.
pub fn empty(mib: u64, wal_kib: u64) -> SimulatedDevice {
    empty_with_blocks(mib, wal_kib, 512)
}

/// The same on a device with blocks of so many bytes.
pub fn empty_with_blocks(mib: u64, wal_kib: u64, block: u32) -> SimulatedDevice {
    let device = SimulatedDevice::new(mib << 20, block, 1);
    let options = FormatOptions {
        label: "bench".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: START_NS,
        wal_bytes: Some(wal_kib << 10),
        segment_bytes: Some(256 << 10),
        force: false,
        small: true,
    };
    format(&device, &options).unwrap();
    device
}

pub fn try_mount(device: &SimulatedDevice, read_only: bool) -> std::result::Result<Mounted, String> {
    let clock = Arc::new(ManualClock::new(START_NS + 1_000_000_000));
    let options = EngineOptions { read_only, threads: false, accept_loss: false, clock, settings: Default::default() };
    let engine = Arc::new(
        Engine::open_for(ClientTag::FILES, Arc::new(device.clone()), options).map_err(|error| error.to_string())?,
    );
    if !read_only && !engine.read_only().is_empty() {
        return Err(engine.read_only().to_string());
    }
    let options = Options { node_cache_bytes: 1 << 20, threads: false, read_only, seed: [7; 16] };
    let ns = Namespace::open(engine.clone(), options).map_err(|error| error.to_string())?;
    Ok(Mounted { engine, ns })
}

pub fn mount(device: &SimulatedDevice) -> Mounted {
    try_mount(device, false).unwrap()
}

impl Mounted {
    /// Again after a checkpoint, if there is no room without one: nobody else makes them.
    pub fn act<T>(&self, act: impl Fn() -> Result<T>) -> T {
        if let Ok(done) = act() {
            return done;
        }
        self.ns.checkpoint().unwrap();
        act().unwrap()
    }
    pub fn make(&self, parent: InodeId, name: &str, what: Make<'_>) -> InodeId {
        self.act(|| self.ns.make(&CX, parent, name.as_bytes(), &what, 0o755)).id
    }
    pub fn file(&self, parent: InodeId, name: &str, bytes: &[u8]) -> InodeId {
        let id = self.make(parent, name, Make::File);
        self.write(id, 0, bytes);
        id
    }
    pub fn write(&self, id: InodeId, offset: u64, bytes: &[u8]) {
        assert_eq!(self.act(|| self.ns.write(&CX, id, offset, bytes)), bytes.len());
    }
    pub fn directory(&self, parent: InodeId, name: &str) -> InodeId {
        self.make(parent, name, Make::Directory)
    }
    pub fn tree(&self) -> Tree {
        dump_below(&self.ns, InodeId::ROOT)
    }
    pub fn close(self) {
        self.ns.close().unwrap();
        drop(self.ns);
        self.engine.close().unwrap();
    }
}

/// Directories, small and large files, an extents tree, hard links, forks, a snapshot, a symbolic link; closed.
pub fn populated(mib: u64) -> SimulatedDevice {
    let device = empty(mib, 512);
    let mounted = mount(&device);
    populate(&mounted);
    mounted.close();
    device
}

pub fn populate(mounted: &Mounted) {
    let mut random = Random(5);
    let top = mounted.directory(InodeId::ROOT, "top");
    for number in 0..12_usize {
        let name = format!("file {number}");
        let length = [10, 300, 700, 5000, 20_000][number % 5] + random.below(50);
        mounted.file(top, &name, &random.bytes(length));
    }
    let inner = mounted.directory(top, "inner");
    let shared = mounted.file(inner, "one", &random.bytes(9000));
    mounted.act(|| mounted.ns.link(&CX, shared, top, b"two"));
    mounted.act(|| mounted.ns.link(&CX, shared, InodeId::ROOT, b"three"));
    mounted.make(inner, "symbolic", Make::Symlink(b"../file 3"));
    // Pieces far apart make an extents tree.
    let sparse = mounted.file(inner, "sparse", &[]);
    for piece in 0..8 {
        mounted.write(sparse, piece * 40_960, &random.bytes(4096));
    }
    mounted.ns.checkpoint().unwrap();
    mounted.act(|| mounted.ns.fork(&CX, top, InodeId::ROOT, b"fork"));
    mounted.act(|| mounted.ns.snapshot(&CX, top, b"before"));
    mounted.file(top, "later", &random.bytes(6000));
    let other = mounted.directory(InodeId::ROOT, "other");
    for number in 0..40 {
        mounted.file(other, &format!("{number}"), &random.bytes(100));
    }
    mounted.ns.checkpoint().unwrap();
}

/// Removes a name if it is there; again after a checkpoint if there is no room without one.
fn remove(mounted: &Mounted, directory: InodeId, number: usize) {
    let name = format!("{number}");
    for _ in 0..3 {
        match mounted.ns.unlink(&CX, directory, name.as_bytes()) {
            Ok(()) | Err(Error::NotFound) => return,
            Err(_) => mounted.ns.checkpoint().unwrap(),
        }
    }
}

/// A store that the cleaner had to move much of: segments without a home, survivors.
pub fn cleaned() -> SimulatedDevice {
    let device = empty(12, 512);
    let mounted = mount(&device);
    let mut random = Random(3);
    populate(&mounted);
    // Filled, thinned out, and filled again, so that the cleaner has to move what stays.
    let churn = mounted.directory(InodeId::ROOT, "churn");
    let fill = |mounted: &Mounted, from: usize, random: &mut Random| {
        for number in from..from + 2000 {
            let made = (0..12).find_map(|_| {
                let name = format!("{number}");
                let made = mounted.ns.make(&CX, churn, name.as_bytes(), &Make::File, 0o644);
                let written = made.and_then(|file| mounted.ns.write(&CX, file.id, 0, &random.bytes(20_000)));
                if written.is_err() {
                    let _gone = mounted.ns.unlink(&CX, churn, name.as_bytes());
                    mounted.ns.checkpoint().unwrap();
                }
                written.ok()
            });
            if made.is_none() {
                return number;
            }
        }
        from + 2000
    };
    let mut end = fill(&mounted, 0, &mut random);
    for round in 0..4 {
        for number in (0..end).filter(|number| number % 3 == round % 3) {
            remove(&mounted, churn, number);
        }
        mounted.ns.checkpoint().unwrap();
        end = fill(&mounted, end, &mut random);
    }
    for number in (0..end).filter(|number| number % 4 < 2) {
        remove(&mounted, churn, number);
    }
    for _ in 0..5 {
        mounted.ns.checkpoint().unwrap();
    }
    mounted.close();
    device
}

pub fn check(device: &SimulatedDevice) -> Report {
    check_disk(&Disk::new(Arc::new(device.clone())), CheckOptions::default()).unwrap()
}

pub fn settings(all: bool) -> Settings {
    let clock = Arc::new(ManualClock::new(START_NS + 2_000_000_000));
    Settings { clock, seed: [3; 16], ..Settings::new(all, CheckOptions::default()) }
}

pub fn repair(device: &SimulatedDevice, all: bool) -> Report {
    repair_disk(&Disk::new(Arc::new(device.clone())), &settings(all)).unwrap()
}

pub fn rebuild(device: &SimulatedDevice) -> Report {
    rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap()
}

/// The check finds this kind, and changes nothing.
pub fn is_found(device: &SimulatedDevice, kind: &Kind) -> Report {
    let before = device.image().to_bytes();
    let report = check(device);
    assert!(numbers(&report).contains(&kind.number), "F{:03} expected:\n{report}", kind.number);
    assert!(device.image().to_bytes() == before, "a check changed something");
    report
}

/// [`is_put_right`], and it mounts. Returns the tree that is left.
pub fn is_mended(device: &SimulatedDevice, kind: &Kind) -> Tree {
    is_put_right(device, kind);
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    let report = check(device);
    assert!(report.is_clean(), "F{:03}, after a mount:\n{report}", kind.number);
    tree
}

/// It is found, what the register says puts it right does so, and a second run is clean (INV-34).
pub fn is_put_right(device: &SimulatedDevice, kind: &Kind) {
    is_found(device, kind);
    let number = kind.number;
    match kind.by {
        By::Nothing => panic!("F{number:03}: nothing mends it"),
        By::Mount => {
            let mounted = mount(device);
            for _ in 0..3 {
                mounted.ns.checkpoint().unwrap();
            }
            mounted.close();
        }
        By::Preen => {
            let report = repair(device, false);
            assert_eq!(report.exit_code(), 1, "F{number:03}:\n{report}");
            assert!(report.repaired.iter().any(|finding| finding.kind == kind), "F{number:03}:\n{report}");
        }
        By::Yes => {
            let report = repair(device, false);
            assert_eq!(report.exit_code() & 4, 4, "-p must leave what -y is for:\n{report}");
            let report = repair(device, true);
            assert_eq!(report.exit_code(), 1, "F{number:03}:\n{report}");
            assert!(report.repaired.iter().any(|finding| finding.kind == kind), "F{number:03}:\n{report}");
        }
        By::Rebuild => {
            let report = repair(device, true);
            assert_ne!(report.exit_code() & 12, 0, "-y must leave what --rebuild is for:\n{report}");
            assert!(rebuild(device).is_clean());
        }
    }
    let report = check(device);
    assert!(report.is_clean() && !numbers(&report).contains(&number), "F{number:03}, second run:\n{report}");
    let again = repair(device, true);
    assert_eq!(again.exit_code(), 0, "F{number:03}, second run:\n{again}");
}

pub fn numbers(report: &Report) -> Vec<u16> {
    let mut numbers: Vec<u16> = report.findings.iter().map(|finding| finding.kind.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// An item of a node, to be changed.
#[derive(Clone, Debug)]
pub struct Item {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub references: Vec<Reference>,
}

/// Changes a store's bytes in place and everything that vouches for them.
pub struct Surgeon {
    pub image: DeviceImage,
    pub superblock: Superblock,
    pub directory: VolumeDirectory,
    pub base: TableBase,
}

impl Surgeon {
    pub fn new(device: &SimulatedDevice) -> Self {
        let image = device.image();
        let mut bytes = vec![0; 4096];
        image.read(0, &mut bytes);
        let superblock = Superblock::decode(&bytes, 0).unwrap();
        let mut bytes = vec![0; superblock.directory_bytes as usize];
        image.read(superblock.slot_positions()[0], &mut bytes);
        let page = DirectoryPage::decode(&bytes, &superblock.seed, superblock.directory_crc).unwrap();
        let base = page.base;
        let mut bytes = vec![0; usize::try_from(base.bytes()).unwrap()];
        image.read(superblock.table_positions(base.slot)[0], &mut bytes);
        let directory = page.over(&bytes, &superblock.seed, superblock.containers).unwrap();
        Self { image, superblock, directory, base }
    }

    pub fn offset(&self, container: u32, unit: u32) -> u64 {
        self.superblock.segments_offset
            + u64::from(container) * u64::from(self.superblock.segment_bytes)
            + u64::from(unit) * 512
    }

    /// Where an object that was never moved lies.
    pub fn position(&self, oid: Oid) -> u64 {
        let home = self.directory.table.iter().position(|row| row.segment == oid.segment()).unwrap();
        self.offset(u32::try_from(home).unwrap(), oid.slot().into())
    }

    pub fn read(&self, reference: &Reference) -> Vec<u8> {
        let mut bytes = vec![0; reference.stored_bytes as usize];
        self.image.read(self.position(reference.oid), &mut bytes);
        bytes
    }

    /// Changes nodes, leaves and interior ones, below every root. A node that two refer to is changed once.
    pub fn nodes(&mut self, change: &mut dyn FnMut(&mut NodeHeader, &mut Vec<Item>)) {
        let bytes = self.read(&self.directory.entry.roots.unwrap());
        let mut roots = RootsObject::decode(&bytes).unwrap();
        let mut done = HashMap::new();
        for reference in &mut roots.references {
            self.node(reference, change, &mut done);
        }
        let bytes = roots.with_copies(|root| Some(self.read(root))).encode();
        for copy in [self.directory.entry.roots, self.directory.entry.roots_twin].iter().flatten() {
            self.image.write(self.position(copy.oid), &bytes);
        }
        for copy in [&mut self.directory.entry.roots, &mut self.directory.entry.roots_twin].into_iter().flatten() {
            copy.crc = crc32c(&bytes);
            copy.stored_bytes = u32::try_from(bytes.len()).unwrap();
            copy.logical_bytes = copy.stored_bytes;
        }
        self.publish();
    }

    /// Looks at every node below every root, however deep.
    pub fn every_node(&self, look: &mut dyn FnMut(&NodeHeader, &[Item])) {
        let roots = RootsObject::decode(&self.read(&self.directory.entry.roots.unwrap())).unwrap();
        let mut stack = roots.references;
        while let Some(reference) = stack.pop().filter(|reference| reference.kind == ReferenceKind::Node) {
            let bytes = self.read(&reference);
            let view = NodeView::parse(&bytes).unwrap();
            let items = view.items().map(|item| Item {
                key: item.key.to_vec(),
                value: item.value.to_vec(),
                references: item.reference_indexes().map(|index| view.reference(index).unwrap()).collect(),
            });
            let items: Vec<Item> = items.collect();
            look(view.header(), &items);
            stack.extend(view.references().filter(|child| child.kind == ReferenceKind::Node));
        }
    }

    fn node(
        &mut self,
        reference: &mut Reference,
        change: &mut dyn FnMut(&mut NodeHeader, &mut Vec<Item>),
        done: &mut HashMap<Oid, Reference>,
    ) {
        if let Some(new) = done.get(&reference.oid) {
            *reference = Reference { flags: reference.flags, ..*new };
            return;
        }
        let bytes = self.read(reference);
        let view = NodeView::parse(&bytes).unwrap();
        let mut header = *view.header();
        let mut items: Vec<Item> = view
            .items()
            .map(|item| Item {
                key: item.key.to_vec(),
                value: item.value.to_vec(),
                references: item.reference_indexes().map(|index| view.reference(index).unwrap()).collect(),
            })
            .collect();
        for item in &mut items {
            for child in item.references.iter_mut().filter(|child| child.kind == ReferenceKind::Node) {
                self.node(child, change, done);
            }
        }
        change(&mut header, &mut items);
        let mut builder = NodeBuilder::new(header.tree, header.level, header.birth, header.owner);
        builder.set_root_blob(view.root_blob()).unwrap();
        builder.set_flags(header.flags);
        for item in &items {
            builder.push(&item.key, &item.value, &item.references).unwrap();
        }
        let mut new = builder.finish();
        assert!(new.len() <= bytes.len(), "a surgeon makes nothing larger");
        let length = new.len();
        self.image.write(self.position(reference.oid), &new);
        new.truncate(length);
        reference.stored_bytes = u32::try_from(length).unwrap();
        reference.logical_bytes = reference.stored_bytes;
        reference.crc = crc32c(&new);
        reference.birth = header.birth;
        done.insert(reference.oid, *reference);
    }

    /// Changes the page of a segment.
    pub fn page(&mut self, segment: u32, change: impl FnOnce(&mut SegmentPage)) {
        let index = self.directory.table.iter().position(|row| row.segment == segment).unwrap();
        let place = self.directory.table[index].metadata;
        let mut bytes = vec![0; place.stored_bytes as usize];
        let at = self.offset(place.container, place.units);
        self.image.read(at, &mut bytes);
        let mut page = SegmentPage::decode(&bytes).unwrap();
        change(&mut page);
        let mut new = page.encode();
        assert!(new.len() <= bytes.len() || bytes.len() == 512 && new.len() == 512);
        new.resize(new.len(), 0);
        self.image.write(at, &new);
        let row = &mut self.directory.table[index];
        row.metadata.crc = crc32c(&new);
        row.metadata.stored_bytes = u32::try_from(new.len()).unwrap();
        self.publish();
    }

    /// Takes the copies of nodes at the top out of the roots objects.
    pub fn without_copies(&mut self) {
        let bytes = self.read(&self.directory.entry.roots.unwrap());
        let mut roots = RootsObject::decode(&bytes).unwrap();
        roots.copies.clear();
        let bytes = roots.encode();
        for copy in [&mut self.directory.entry.roots, &mut self.directory.entry.roots_twin].into_iter().flatten() {
            copy.crc = crc32c(&bytes);
            copy.stored_bytes = u32::try_from(bytes.len()).unwrap();
            copy.logical_bytes = copy.stored_bytes;
        }
        for copy in [self.directory.entry.roots, self.directory.entry.roots_twin].iter().flatten() {
            self.image.write(self.position(copy.oid), &bytes);
        }
        self.publish();
    }

    /// Changes a bit.
    pub fn flip(&mut self, offset: u64) {
        let mut byte = [0];
        self.image.read(offset, &mut byte);
        self.image.write(offset, &[byte[0] ^ 1]);
    }

    /// Where these bytes are, at the start of a unit.
    pub fn find(&self, bytes: &[u8]) -> Vec<u64> {
        let mut held = vec![0; bytes.len()];
        let units = (0..self.superblock.size - bytes.len() as u64).step_by(512);
        units
            .filter(|at| {
                self.image.read(*at, &mut held);
                held == bytes
            })
            .collect()
    }

    /// Writes the directory over the one that rules, and all superblocks.
    pub fn publish(&mut self) {
        let seed = &self.superblock.seed;
        let table = SegmentTable::encode(&self.directory.table, seed, self.base.slot, self.base.sequence);
        self.base = table.base;
        for at in self.superblock.table_positions(table.base.slot) {
            self.image.write(at, &table.bytes);
        }
        let page = DirectoryPage {
            sequence: self.directory.sequence,
            entry: self.directory.entry.clone(),
            containers: self.superblock.containers,
            base: table.base,
            changed: Vec::new(),
        };
        let (bytes, crc) = page.encode(seed);
        self.superblock.directory_crc = crc;
        self.superblock.directory_bytes = u32::try_from(bytes.len()).unwrap();
        for at in self.superblock.slot_positions() {
            self.image.write(at, &bytes);
        }
        for at in Superblock::positions(self.superblock.size) {
            self.image.write(at, &self.superblock.encode(at));
        }
    }

    pub fn device(&self) -> SimulatedDevice {
        SimulatedDevice::from_image(self.image.clone(), 512, 1)
    }
}

/// Is the device of use in a test that writes?
pub fn writes(device: &SimulatedDevice) -> u64 {
    let counters = device.counters();
    counters.writes + counters.flushes
}

/// The geometry's size.
pub fn size(device: &SimulatedDevice) -> u64 {
    device.geometry().size_bytes
}
