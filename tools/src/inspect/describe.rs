//! What decoded structures say, as fields: records of the log, items of nodes, references.

use super::tree::{Fields, Tree, error, text};
use envoyfs_layout::key::{DirectoryKey, LinkKey, RealmItemKind, RealmKey, decode_extent, decode_territory};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::operation::{BindTarget, Fate, Operation};
use envoyfs_layout::wal::{CheckpointBody, Record, SegmentOpened, SegmentPlaced, SegmentSealed, kind};
use envoyfs_layout::{
    Body, DirectoryAttributes, Entry, Inode, LayoutError, RealmEntry, RealmRecord, Reference, ReferenceKind, Slice,
    SnapshotItem, TerritoryRecord, Totals, flags,
};

/// What an object is.
#[must_use]
pub const fn kind_name(kind: ReferenceKind) -> &'static str {
    match kind {
        ReferenceKind::Node => "node",
        ReferenceKind::Extent => "extent",
        ReferenceKind::Batch => "batch",
        ReferenceKind::Roots => "roots",
    }
}

/// Which tree.
#[must_use]
pub const fn tree_name(tree: TreeKind) -> &'static str {
    match tree {
        TreeKind::Directory => "directory",
        TreeKind::Links => "links",
        TreeKind::Extents => "extents",
        TreeKind::RealmTable => "realm table",
        TreeKind::TerritoryTable => "territory table",
    }
}

fn flag_names(bits: u8) -> Tree {
    let names = [(flags::LINKS, "LINKS"), (flags::REALMS, "REALMS"), (flags::SNAPSHOTS, "SNAPSHOTS")];
    Tree::List(names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).into()).collect())
}

/// A reference.
#[must_use]
pub fn reference(reference: &Reference) -> Tree {
    Tree::Map(vec![
        ("oid", reference.oid.into()),
        ("kind", kind_name(reference.kind).into()),
        ("stored_bytes", Tree::Bytes(reference.stored_bytes.into())),
        ("logical_bytes", Tree::Bytes(reference.logical_bytes.into())),
        ("birth", reference.birth.into()),
        // File data has its checksums where it is referred to, one for each 4 KiB.
        ("crc", if reference.kind == ReferenceKind::Extent { Tree::None } else { Tree::Hex(reference.crc.into()) }),
        ("flags", flag_names(reference.flags)),
    ])
}

/// Sums.
#[must_use]
pub fn totals(totals: &Totals) -> Tree {
    let Totals { bytes, files, directories, links } = *totals;
    Tree::Map(vec![
        ("bytes", bytes.into()),
        ("files", files.into()),
        ("directories", directories.into()),
        ("links", links.into()),
    ])
}

/// Name of a record's kind, and its body.
#[must_use]
pub fn record(record: &Record) -> (&'static str, Tree) {
    let or_bad = |body: Result<Tree, LayoutError>| body.unwrap_or_else(error);
    let body = record.body.as_slice();
    match record.kind {
        kind::SEGMENT_OPENED => (
            "SEGMENT_OPENED",
            or_bad(SegmentOpened::decode(body).map(|body| {
                Tree::Map(vec![("segment", body.number.into()), ("stream", stream_name(body.stream).into())])
            })),
        ),
        kind::SEGMENT_SEALED => (
            "SEGMENT_SEALED",
            or_bad(SegmentSealed::decode(body).map(|body| {
                Tree::Map(vec![
                    ("segment", body.number.into()),
                    ("length_bytes", Tree::Bytes(body.length.into())),
                    ("digest", Tree::Hex(body.digest)),
                ])
            })),
        ),
        kind::SEGMENT_PLACED => (
            "SEGMENT_PLACED",
            or_bad(
                SegmentPlaced::decode(body)
                    .map(|body| Tree::Map(vec![("segment", body.number.into()), ("container", body.container.into())])),
            ),
        ),
        kind::CHECKPOINT => (
            "CHECKPOINT",
            or_bad(CheckpointBody::decode(body).map(|body| {
                Tree::Map(vec![
                    ("number", body.number.into()),
                    ("freeze_lsn", body.freeze.into()),
                    ("roots", body.roots.oid.into()),
                    ("roots_twin", body.roots_twin.oid.into()),
                    ("batch", Tree::List(body.batch.iter().map(|part| part.oid.into()).collect())),
                ])
            })),
        ),
        kind::WATERMARK => ("WATERMARK", Tree::Map(Vec::new())),
        client if client >= kind::CLIENT_FIRST => match Operation::decode(client, body) {
            Ok(operation) => {
                let (name, fields) = self::operation(&operation);
                (name, Tree::Map(fields))
            }
            Err(what) => ("CLIENT", error(what)),
        },
        other => ("UNKNOWN", error(format_args!("kind {other}, {} bytes", body.len()))),
    }
}

/// Stream of a segment.
#[must_use]
pub const fn stream_name(stream: u8) -> &'static str {
    match stream {
        0 => "nodes",
        1 => "data",
        2 => "payload",
        _ => "unknown",
    }
}

fn target(target: &BindTarget) -> Fields {
    match target {
        BindTarget::View => vec![("target", "view".into())],
        BindTarget::Named { parent, name } => {
            vec![("target", "name".into()), ("parent", (*parent).into()), ("name", text(name))]
        }
        BindTarget::Link { realm_root, shard, inode } => vec![
            ("target", "link".into()),
            ("realm_root", (*realm_root).into()),
            ("shard", (*shard).into()),
            ("inode", (*inode).into()),
        ],
        BindTarget::Orphan { realm, inode } => {
            vec![("target", "orphan".into()), ("realm", (*realm).into()), ("inode", (*inode).into())]
        }
        BindTarget::Snapshot { directory, realm } => {
            vec![("target", "snapshot".into()), ("directory", (*directory).into()), ("realm", (*realm).into())]
        }
    }
}

/// Name and fields of an operation of the namespace.
#[must_use]
#[expect(clippy::too_many_lines, reason = "one arm a kind")]
pub fn operation(operation: &Operation) -> (&'static str, Fields) {
    let n = |value: &u64| Tree::Number(*value);
    let optional = |value: Option<u32>| value.map_or(Tree::None, |value| value.into());
    match operation {
        Operation::Bind { handle, target: to } => ("BIND", [vec![("handle", n(handle))], target(to)].concat()),
        Operation::Create { handle, parent, time, name, inode, .. } => (
            "CREATE",
            vec![
                ("handle", n(handle)),
                ("parent", n(parent)),
                ("name", text(name)),
                ("time", Tree::Time(*time)),
                ("inode", n(&inode.number)),
                ("mode", mode(inode.mode)),
                ("uid", inode.uid.into()),
                ("gid", inode.gid.into()),
            ],
        ),
        Operation::Link { handle, parent, time, name } => (
            "LINK",
            vec![("handle", n(handle)), ("parent", n(parent)), ("name", text(name)), ("time", Tree::Time(*time))],
        ),
        Operation::Unlink { parent, time, name, fate } => {
            let fate = match fate {
                Fate::Gone => vec![("fate", "gone".into())],
                Fate::Orphan => vec![("fate", "orphan".into())],
                Fate::Survivor { parent, name } => {
                    vec![("fate", "survivor".into()), ("survivor_parent", n(parent)), ("survivor_name", text(name))]
                }
            };
            ("UNLINK", [vec![("parent", n(parent)), ("name", text(name)), ("time", Tree::Time(*time))], fate].concat())
        }
        Operation::Rename { parent, name, new_parent, new_name, time, exchange, orphan } => (
            "RENAME",
            vec![
                ("parent", n(parent)),
                ("name", text(name)),
                ("new_parent", n(new_parent)),
                ("new_name", text(new_name)),
                ("time", Tree::Time(*time)),
                ("exchange", (*exchange).into()),
                ("orphan", (*orphan).into()),
            ],
        ),
        Operation::Write { handle, size, time, pieces, direct } => {
            let piece = |(offset, bytes): &(u64, Vec<u8>)| {
                Tree::Map(vec![("offset", n(offset)), ("length_bytes", Tree::Bytes(bytes.len() as u64))])
            };
            (
                "WRITE",
                vec![
                    ("handle", n(handle)),
                    ("size", n(size)),
                    ("time", Tree::Time(*time)),
                    ("pieces", Tree::List(pieces.iter().map(piece).collect())),
                    ("blocks", Tree::List(direct.iter().map(n).collect())),
                ],
            )
        }
        Operation::Truncate { handle, size, time } => {
            ("TRUNCATE", vec![("handle", n(handle)), ("size", n(size)), ("time", Tree::Time(*time))])
        }
        Operation::SetAttributes { handle, attributes, time } => {
            let at = |time: Option<envoyfs_layout::Timestamp>| time.map_or(Tree::None, Tree::Time);
            (
                "SETATTR",
                vec![
                    ("handle", n(handle)),
                    ("mode", attributes.mode.map_or(Tree::None, mode)),
                    ("uid", optional(attributes.uid)),
                    ("gid", optional(attributes.gid)),
                    ("atime", at(attributes.atime)),
                    ("mtime", at(attributes.mtime)),
                    ("time", Tree::Time(*time)),
                ],
            )
        }
        Operation::SetXattr { handle, time, name, value } => (
            "SETXATTR",
            vec![
                ("handle", n(handle)),
                ("name", text(name)),
                ("value_bytes", Tree::Bytes(value.len() as u64)),
                ("time", Tree::Time(*time)),
            ],
        ),
        Operation::RemoveXattr { handle, time, name } => {
            ("REMOVEXATTR", vec![("handle", n(handle)), ("name", text(name)), ("time", Tree::Time(*time))])
        }
        Operation::ForkDirectory { source, parent, time, name, realm } => (
            "FORK_DIRECTORY",
            vec![
                ("source", n(source)),
                ("parent", n(parent)),
                ("name", text(name)),
                ("realm", n(realm)),
                ("time", Tree::Time(*time)),
            ],
        ),
        Operation::ForkFile { source, parent, time, name, handle, number } => (
            "FORK_FILE",
            vec![
                ("source", n(source)),
                ("parent", n(parent)),
                ("name", text(name)),
                ("handle", n(handle)),
                ("inode", n(number)),
                ("time", Tree::Time(*time)),
            ],
        ),
        Operation::Snapshot { directory, time, name, realm } => (
            "SNAPSHOT",
            vec![("directory", n(directory)), ("name", text(name)), ("realm", n(realm)), ("time", Tree::Time(*time))],
        ),
        Operation::DeleteTree { parent, time, name, dropped } => (
            "DELETE_TREE",
            vec![
                ("parent", n(parent)),
                ("name", text(name)),
                ("dropped", Tree::List(dropped.iter().map(realm_key).collect())),
                ("time", Tree::Time(*time)),
            ],
        ),
        Operation::DeleteSnapshot { directory, time, realm } => {
            ("DELETE_SNAPSHOT", vec![("directory", n(directory)), ("realm", n(realm)), ("time", Tree::Time(*time))])
        }
        Operation::OrphanDrop { realm, inode } => ("ORPHAN_DROP", vec![("realm", n(realm)), ("inode", n(inode))]),
    }
}

fn mode(mode: u32) -> Tree {
    Tree::Text(format!("0{mode:o}"))
}

fn realm_key(key: &RealmKey) -> Tree {
    let kind = match key.kind {
        RealmItemKind::Record => "record",
        RealmItemKind::Snapshot => "snapshot",
        RealmItemKind::Orphan => "orphan",
    };
    Tree::Text(format!("{kind} of realm {}, directory {}, id {}", key.realm, key.directory, key.id))
}

/// What an item of a leaf is called: a name where there is one.
#[must_use]
pub fn item_name(tree: TreeKind, key: &[u8]) -> String {
    let named = match tree {
        TreeKind::Directory => DirectoryKey::decode(key).map(|key| String::from_utf8_lossy(&key.name).into_owned()),
        TreeKind::Links => LinkKey::decode(key).map(|key| format!("inode {} (shard {})", key.inode, key.shard)),
        TreeKind::Extents => decode_extent(key).map(|block| format!("block {block}")),
        TreeKind::RealmTable => RealmKey::decode(key).map(|key| realm_key(&key).line()),
        TreeKind::TerritoryTable => decode_territory(key).map(|number| format!("territory {number}")),
    };
    named.unwrap_or_else(|error| format!("(bad key: {error})"))
}

/// An item of a leaf.
#[must_use]
pub fn item(tree: TreeKind, key: &[u8], value: &[u8], references: &[Reference]) -> Tree {
    let decoded = match tree {
        TreeKind::Directory => Entry::decode(value, references).map(|entry| self::entry(&entry)),
        TreeKind::Links => Inode::decode(value, references).map(|inode| self::inode(&inode)),
        TreeKind::Extents => Slice::decode(value).map(|slice| self::slice(&slice)),
        TreeKind::RealmTable => RealmKey::decode(key).and_then(|key| match key.kind {
            RealmItemKind::Record => RealmRecord::decode(value).map(|record| {
                vec![
                    ("index", record.index.into()),
                    ("created", record.created.into()),
                    ("snapshots", record.snapshots.into()),
                    ("orphans", record.orphans.into()),
                ]
            }),
            RealmItemKind::Snapshot => SnapshotItem::decode(value, references)
                .map(|item| [vec![("name", text(&item.name))], realm(&item.realm)].concat()),
            RealmItemKind::Orphan => Inode::decode(value, references).map(|inode| self::inode(&inode)),
        }),
        TreeKind::TerritoryTable => TerritoryRecord::decode(value, references).map(|record| territory(&record)),
    };
    decoded.map_or_else(error, Tree::Map)
}

fn entry(entry: &Entry) -> Fields {
    let kinded = |kind: &'static str, fields: Fields| [vec![("entry", kind.into())], fields].concat();
    match entry {
        Entry::File(inode) => kinded("file", self::inode(inode)),
        Entry::Symlink(inode) => kinded("symbolic link", self::inode(inode)),
        Entry::Special(inode) => kinded("special file", self::inode(inode)),
        Entry::Directory(directory) => kinded(
            "directory",
            vec![
                ("inode", directory.number.into()),
                ("generation", directory.generation.into()),
                ("root", directory.root.oid.into()),
                ("share", directory.share.into()),
                ("snapshots", directory.snapshots.into()),
                ("totals", totals(&directory.totals)),
            ],
        ),
        Entry::Link(link) => {
            kinded("link", vec![("shard", link.shard.into()), ("inode", link.inode.into()), ("mode", mode(link.mode))])
        }
        Entry::Realm(entry) => kinded("realm", realm(entry)),
    }
}

fn realm(entry: &RealmEntry) -> Fields {
    vec![
        ("realm", entry.realm_id.into()),
        ("home", entry.home.into()),
        ("read_only", entry.read_only.into()),
        ("inode", entry.number.into()),
        ("root", entry.root.oid.into()),
        ("share", entry.share.into()),
        ("links", entry.links.map_or(Tree::None, |links| links.oid.into())),
        ("totals", totals(&entry.totals)),
    ]
}

fn inode(inode: &Inode) -> Fields {
    let body = match &inode.body {
        Body::None => vec![("body", "none".into())],
        Body::Inline { bytes, .. } => {
            vec![("body", "inline".into()), ("inline_bytes", Tree::Bytes(bytes.len() as u64))]
        }
        Body::Slices(slices) => {
            let slice = |(slice, extent): &(Slice, Reference)| {
                Tree::Map([vec![("extent", extent.oid.into())], self::slice(slice)].concat())
            };
            vec![("body", "slices".into()), ("slices", Tree::List(slices.iter().map(slice).collect()))]
        }
        Body::Tree { root, bytes } => {
            vec![("body", "tree".into()), ("root", root.oid.into()), ("allocated_bytes", Tree::Bytes(*bytes))]
        }
    };
    let fields = vec![
        ("inode", inode.number.into()),
        ("generation", inode.generation.into()),
        ("mode", mode(inode.mode)),
        ("uid", inode.uid.into()),
        ("gid", inode.gid.into()),
        ("nlink", inode.nlink.into()),
        ("size_bytes", Tree::Bytes(inode.size)),
        ("mtime", Tree::Time(inode.mtime)),
        ("share", inode.share.into()),
        ("xattrs", inode.xattrs.len().into()),
    ];
    [fields, body].concat()
}

fn slice(slice: &Slice) -> Fields {
    vec![
        ("file_block", slice.file_block.into()),
        ("blocks", slice.blocks.into()),
        ("extent_block", slice.extent_block.into()),
        ("stored_bytes", Tree::Bytes(slice.stored_bytes())),
    ]
}

fn territory(record: &TerritoryRecord) -> Fields {
    let fields = vec![
        ("territory", record.territory.into()),
        ("parent", record.parent.into()),
        ("realm", record.realm.into()),
        ("root_inode", record.root_inode.into()),
        ("last_hlc", record.last_hlc.into()),
    ];
    let view = record.view.as_ref().map_or(Tree::None, |view| Tree::Map(realm(view)));
    [fields, vec![("view", view)]].concat()
}

/// Attributes in a directory's root node.
#[must_use]
pub fn directory_attributes(blob: &[u8]) -> Tree {
    let decoded = DirectoryAttributes::decode(blob).map(|attributes| {
        Tree::Map(vec![
            ("mode", mode(attributes.mode)),
            ("uid", attributes.uid.into()),
            ("gid", attributes.gid.into()),
            ("mtime", Tree::Time(attributes.mtime)),
            ("parent_realm", attributes.parent_realm.into()),
            ("parent_inode", attributes.parent_inode.into()),
            ("xattrs", attributes.xattrs.len().into()),
        ])
    });
    decoded.unwrap_or_else(error)
}
