//! Stored objects: nodes, extents, the entries of nodes, and the roots of a checkpoint. Sizes are tiny so that a few dozen
//! operations split and merge every structure.

/// Names one version for ever; 0 is none.
pub(crate) type ObjectId = u32;
/// Births (odd) and share times (even) come from one clock.
pub(crate) type Stamp = u64;

/// Entries of a directory, link table or realm table node.
pub(crate) const DIRECTORY_FANOUT: usize = 5;
/// Entries of an extent tree node.
pub(crate) const FILE_FANOUT: usize = 4;
/// Slices that a file holds before it gets a tree.
pub(crate) const INLINE_SLICES: usize = 2;
/// Blocks of the largest file.
pub const FILE_BLOCKS: u32 = 32;
/// Blocks of the largest extent.
pub(crate) const EXTENT_BLOCKS_MAX: u32 = 10;

/// The realm id of the volume's root.
pub(crate) const TOP_REALM: u32 = 1;

/// Reference flag: links below, this side of any realm's entry.
pub(crate) const LINKS: u8 = 1;
/// Reference flag: realms below, this side of any realm's entry.
pub(crate) const REALMS: u8 = 2;
/// Reference flag: snapshots at or below, realms passed through.
pub(crate) const SNAPSHOTS: u8 = 4;

/// Blocks `start..start + len` of a file are those at `offset` of an extent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) start: u32,
    pub(crate) len: u32,
    pub(crate) extent: ObjectId,
    pub(crate) offset: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Inline(Vec<Slice>),
    Tree(ObjectId),
}

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A file with one name: its inode is embedded.
    File {
        share: Stamp,
        body: Body,
    },
    Directory {
        share: Stamp,
        root: ObjectId,
        inode: u32,
        has_snapshots: bool,
    },
    /// A view, clone or snapshot. `home` is the realm this entry was made in, moved to or adopted in (of a snapshot: the
    /// Realm whose list holds it, and `inode` says of which directory).
    Realm {
        share: Stamp,
        link_share: Stamp,
        read_only: bool,
        root: ObjectId,
        links: ObjectId,
        realm: u32,
        home: u32,
        inode: u32,
        has_snapshots: bool,
    },
    /// A name of an inode in the realm's link table.
    Link(u32),
    /// An inode in a link table, or with no name left in the orphan table.
    TableFile {
        share: Stamp,
        nlink: u32,
        body: Body,
    },
    Slice(Slice),
    Child(ObjectId),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) birth: Stamp,
    pub(crate) level: u8,
    /// Of an extent tree: no flags, no totals, another fanout.
    pub(crate) file: bool,
    pub(crate) flags: u8,
    pub(crate) items: Vec<(u32, Entry)>,
    pub(crate) totals: Totals,
}

#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) birth: Stamp,
    /// Stands for the bytes of each block: unique in a history.
    pub(crate) tokens: Vec<u64>,
    /// Written straight to a segment; otherwise a payload in the WAL until a checkpoint.
    pub(crate) direct: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Node(Node),
    Extent(Extent),
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) content: Content,
    /// The checkpoint batch that contains it; 0: in none yet.
    pub(crate) batch: u32,
}

/// Totals of a subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) links: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, o: Totals) {
        self.bytes = self.bytes.wrapping_add(o.bytes);
        self.files = self.files.wrapping_add(o.files);
        self.directories = self.directories.wrapping_add(o.directories);
        self.links = self.links.wrapping_add(o.links);
    }
}

/// A checkpoint's roots: the top entry and the realm table.
pub(crate) type Roots = (Entry, ObjectId);

/// `len` bits from bit `offset`: a range of an extent's blocks.
pub(crate) fn mask(offset: u32, len: u32) -> u64 {
    ((1u64 << len) - 1) << offset
}
