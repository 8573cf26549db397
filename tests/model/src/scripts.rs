//! Hand-written attacks that random histories reach too rarely, and a demonstration of space figures.

use crate::bugs::Bug;
use crate::model::{Config, Model};
use crate::objects::Content;
use crate::operation::{Name, ORPHAN_BASE, Operation};

/// What an attack aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Link,
    Orphan,
    OrphanTree,
    File,
    Mark,
}

pub const SCRIPTS: &[Script] = &[Script::Link, Script::Orphan, Script::OrphanTree, Script::File, Script::Mark];

/// The bugs that scripts are tried against, the first one being none.
pub const SCRIPTED_BUGS: &[Bug] =
    &[Bug::None, Bug::LinkConvNoPush, Bug::OrphanNoPush, Bug::RenameNoPush, Bug::MarkBlockOnly];

/// A model that is driven by hand.
struct Driver(Model);

impl Driver {
    fn new(bug: Bug, restamp: bool) -> Driver {
        Driver(Model::new(1, Config { bug, restamp, history: false, mark: false, operations: 0 }))
    }

    fn go(&mut self, operation: Operation) {
        self.0.now += 1;
        self.0.execute(operation);
    }

    fn checkpoint(&mut self) {
        self.0.freeze(true);
        self.0.publish();
        self.0.check();
    }

    fn create(&mut self, directory: &[Name], name: Name) {
        self.go(Operation::Create { directory: directory.to_vec(), name });
    }

    fn make_directory(&mut self, directory: &[Name], name: Name, inode: u32) {
        self.go(Operation::MakeDirectory { directory: directory.to_vec(), name, inode });
    }

    fn write(&mut self, file: &[Name], block: u32, blocks: u32, token: u64) {
        let file = file.to_vec();
        self.go(Operation::Write { file, block, blocks, token, direct: false, extent: 0, places: vec![] });
    }

    fn punch(&mut self, file: &[Name], from: u32, to: u32) {
        self.go(Operation::Punch { file: file.to_vec(), from, to });
    }

    fn unlink(&mut self, file: &[Name]) {
        self.go(Operation::Unlink { file: file.to_vec(), other_name: None });
    }

    fn link(&mut self, file: &[Name], directory: &[Name], name: Name, number: u32) {
        self.go(Operation::Link { file: file.to_vec(), directory: directory.to_vec(), name, number });
    }

    fn clone(&mut self, source: &[Name], name: Name, realm: u32) {
        let source = source.to_vec();
        self.go(Operation::Clone { source, directory: vec![], name, read_only: false, realm });
    }

    fn snapshot(&mut self, directory: &[Name], snapshot: u32) {
        self.go(Operation::TakeSnapshot { directory: directory.to_vec(), snapshot });
    }

    fn data_blocks(&self) -> usize {
        let extent = |id: u32| matches!(self.0.objects[id as usize].content, Content::Extent(_));
        self.0.current.places.keys().filter(|k| extent(k.0)).count()
    }

    /// /1 is a directory, cloned to realm /2 early (a low share time).
    fn clone_early(&mut self) {
        self.make_directory(&[], 1, 101);
        self.make_directory(&[1], 9, 102);
        self.clone(&[1], 2, 2);
        self.checkpoint();
        self.make_directory(&[1], 10, 103);
        self.create(&[1, 10], 11);
    }

    /// /1 is snapshotted, then /1/10 moves into realm /2: what it takes along is shared with the snapshot only.
    fn snapshot_and_move(&mut self) {
        self.checkpoint();
        self.snapshot(&[1], 3);
        self.checkpoint();
        self.go(Operation::Rename {
            from: vec![1, 10],
            directory: vec![2],
            name: 12,
            realm: 4,
            other_name: None,
            orphan: None,
        });
        self.checkpoint();
    }

    /// The moved file gets a second name and is written through it.
    fn link_and_write(&mut self) {
        self.link(&[2, 12, 11], &[2, 12], 13, 1);
        self.checkpoint();
        self.write(&[2, 12, 13], 0, 8, 2000);
    }

    /// Part of /1's extent moves to /2, no block twice; /2's tree is shared with /3; the mark; /3 goes; /2's part goes.
    fn mark(&mut self) {
        self.create(&[], 1);
        self.create(&[], 2);
        self.write(&[1], 0, 8, 1000);
        self.go(Operation::Reflink { source: vec![1], source_block: 0, target: vec![2], target_block: 0, blocks: 4 });
        self.punch(&[1], 0, 4);
        for i in 0..5 {
            self.write(&[2], 10 + 2 * i, 1, 2000 + u64::from(i));
        }
        self.go(Operation::CloneFile { source: vec![2], directory: vec![], name: 3 });
        self.0.quiesce();
        self.0.lower();
        self.unlink(&[3]);
        self.punch(&[2], 0, 4);
        self.checkpoint();
    }
}

/// Runs one attack; panics at the first violation.
pub fn run_script(script: Script, bug: Bug, restamp: bool) {
    let mut d = Driver::new(bug, restamp);
    if script == Script::Mark {
        d.mark();
        d.0.quiesce();
        return;
    }
    d.clone_early();
    if script == Script::OrphanTree {
        // a file with its own extent tree: the nodes of the tree must survive in the snapshot
        for i in 0..9 {
            d.write(&[1, 10, 11], i * 2, 1, 1000 + u64::from(i));
        }
    } else {
        d.write(&[1, 10, 11], 0, 8, 1000);
    }
    d.snapshot_and_move();
    match script {
        Script::Link | Script::OrphanTree => d.link_and_write(),
        Script::Orphan => {
            d.go(Operation::UnlinkOpen { file: vec![2, 12, 11], orphan: 1 });
            d.checkpoint();
            d.write(&[ORPHAN_BASE + 1], 0, 8, 3000);
            d.go(Operation::CloseOrphan { orphan: 1 });
        }
        Script::File => d.write(&[2, 12, 11], 0, 8, 2000),
        Script::Mark => {}
    }
    d.checkpoint();
    d.0.check();
    d.0.quiesce();
}

/// What space costs in three situations, in blocks of file data.
#[derive(Debug, PartialEq, Eq)]
pub struct Demonstration {
    /// Every name of every file is removed; a clone of an inner directory, now empty, is still there.
    pub empty_inner_clone: usize,
    /// A file of 30 blocks, snapshot, 25 blocks rewritten, snapshot deleted.
    pub former_snapshot: usize,
    /// The same after the mark reclaimed ranges.
    pub after_mark: usize,
}

pub fn demonstrate() -> Demonstration {
    // an inner clone copies the link entries it has names for
    let mut d = Driver::new(Bug::None, true);
    d.make_directory(&[], 1, 101);
    d.create(&[1], 9);
    d.write(&[1, 9], 0, 10, 7);
    d.link(&[1, 9], &[], 8, 1);
    d.create(&[], 30);
    d.write(&[30], 0, 10, 70);
    d.link(&[30], &[], 31, 2);
    d.0.generator.last_number = 2;
    d.clone(&[1], 2, 2);
    for name in [&[1, 9][..], &[8], &[30], &[31], &[2, 9]] {
        d.unlink(name);
    }
    d.0.quiesce();
    let empty_inner_clone = d.data_blocks();

    // dead ranges of a formerly shared extent
    let mut d = Driver::new(Bug::None, true);
    d.create(&[], 9);
    for i in 0..3 {
        d.write(&[9], i * 10, 10, 100 * u64::from(i));
    }
    d.snapshot(&[], 2);
    d.0.freeze(true);
    d.0.publish();
    for i in (0..27).filter(|i| i % 10 != 9) {
        d.write(&[9], i, 1, 5000 + u64::from(i));
    }
    d.go(Operation::DropSnapshot { snapshot: 2, directory: vec![], clear_flag: false });
    d.0.quiesce();
    let former_snapshot = d.data_blocks();
    d.0.lower();
    Demonstration { empty_inner_clone, former_snapshot, after_mark: d.data_blocks() }
}
