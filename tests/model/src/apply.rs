//! What each operation does to the stored tree: one function an operation, used by replay too.
//!
//! Each reads share times on the paths it touches *before* it changes them: what moves is raised to the largest on its old
//! path, what is cloned raises both sides.

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Body, Content, Entry, Extent, LINKS, ObjectId, Slice};
use crate::operation::{Name, ORPHAN_BASE, Operation, Path, SNAPSHOT_BASE, split};

/// Blocks that an operation writes.
struct Written {
    block: u32,
    blocks: u32,
    token: u64,
    /// The extent that already holds them; none for a payload in the WAL.
    direct: Option<ObjectId>,
}

/// A range of blocks that a reflink copies.
struct Range {
    source_block: u32,
    target_block: u32,
    blocks: u32,
}

impl Model {
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { directory, name } => {
                self.dir_insert(directory, *name, Entry::File { share: 0, body: Body::Inline(vec![]) });
            }
            Operation::MakeDirectory { directory, name, inode } => self.make_directory(directory, *name, *inode),
            Operation::Write { file, block, blocks, token, direct, extent, places } => {
                let direct = direct.then_some(*extent);
                self.write(file, &Written { block: *block, blocks: *blocks, token: *token, direct }, places);
            }
            Operation::Punch { file, from, to } => {
                self.file_edit(file, None, &mut |m, body, path_share| m.body_punch(body, path_share, *from, *to));
            }
            Operation::Unlink { file, other_name } => self.unlink(file, other_name),
            Operation::UnlinkOpen { file, orphan } => {
                let (directory, name) = split(file);
                self.move_to_orphans(directory, name, *orphan);
            }
            Operation::CloseOrphan { orphan } => self.table_remove(*orphan),
            Operation::TemporaryFile { orphan } => self.temporary_file(*orphan),
            Operation::LinkOrphan { orphan, directory, name } => self.link_orphan(*orphan, directory, *name),
            Operation::RemoveDirectory { path } => {
                self.stats.drops += 1;
                let (directory, name) = split(path);
                self.dir_remove(directory, name);
            }
            Operation::RemoveTree { path } => self.remove_tree(path),
            Operation::Rename { from, directory, name, realm, other_name, orphan } => {
                self.rename(from, directory, *name, *realm, other_name, *orphan);
            }
            Operation::Clone { source, directory, name, read_only, realm } => {
                self.clone_directory(source, directory, *name, *read_only, *realm);
            }
            Operation::TakeSnapshot { directory, snapshot } => self.take_snapshot(directory, *snapshot),
            Operation::DropSnapshot { snapshot, directory, clear_flag } => {
                self.stats.snap_drops += 1;
                self.table_remove(SNAPSHOT_BASE + snapshot);
                if *clear_flag {
                    self.set_snapshot_flag(directory, false);
                }
            }
            Operation::Adopt { path, realm } => self.adopt(path, *realm),
            Operation::EmbedLink { file } => self.embed_link(file),
            Operation::CloneHistory { batch, directory, name, realm, .. } => {
                self.clone_history(*batch, directory, *name, *realm);
            }
            Operation::CloneFile { source, directory, name } => self.clone_file(source, directory, *name),
            Operation::Reflink { source, source_block, target, target_block, blocks } => {
                let range = Range { source_block: *source_block, target_block: *target_block, blocks: *blocks };
                self.reflink(source, target, &range);
            }
            Operation::Link { file, directory, name, number } => self.link(file, directory, *name, *number),
        }
    }

    fn make_directory(&mut self, directory: &[Name], name: Name, inode: u32) {
        let root = self.new_node(0, false, vec![]);
        self.dir_insert(directory, name, Entry::Directory { share: 0, root, inode, has_snapshots: false });
    }

    fn write(&mut self, file: &[Name], w: &Written, places: &[u32]) {
        self.stats.writes += 1;
        if let Some(extent) = w.direct {
            for (block, place) in places.iter().enumerate() {
                self.current.places.insert((extent, block as u32), *place);
            }
            self.pending.direct.push(extent);
        }
        self.file_edit(file, None, &mut |m, body, path_share| {
            if w.direct.is_none() && m.update_payload(&body, path_share, w) {
                return body;
            }
            let body = m.body_punch(body, path_share, w.block, w.block + w.blocks);
            let extent = w.direct.unwrap_or_else(|| {
                let birth = m.birth_now();
                let tokens = (0..u64::from(w.blocks)).map(|i| w.token + i).collect();
                m.add(Content::Extent(Extent { birth, tokens, direct: false }))
            });
            m.body_insert(body, path_share, Slice { start: w.block, len: w.blocks, extent, offset: 0 })
        });
    }

    /// In place, in a payload that is exclusive and still only in the WAL. False: there is none.
    fn update_payload(&mut self, body: &Body, path_share: u64, w: &Written) -> bool {
        for s in self.slices(body) {
            let covers = s.start <= w.block && w.block + w.blocks <= s.start + s.len;
            let only_in_wal = self.objects[s.extent as usize].batch == 0 && !self.extent(s.extent).direct;
            if !covers || !only_in_wal || !self.is_exclusive(self.birth(s.extent), path_share) {
                continue;
            }
            self.stats.inplace_payload += 1;
            let first = (s.offset + w.block - s.start) as usize;
            if let Content::Extent(e) = &mut self.objects[s.extent as usize].content {
                for i in 0..w.blocks as usize {
                    e.tokens[first + i] = w.token + i as u64;
                }
            }
            return true;
        }
        false
    }

    fn unlink(&mut self, file: &[Name], other_name: &Option<Path>) {
        let (directory, name) = split(file);
        let entry = self.at(file);
        self.dir_remove(directory, name);
        if let Entry::Link(number) = entry {
            let realm = self.realm_path(directory);
            self.drop_link_name(&realm, number, other_name);
        }
    }

    fn temporary_file(&mut self, orphan: u32) {
        self.stats.tmpfiles += 1;
        self.table_put(orphan, Entry::TableFile { share: 0, nlink: 0, body: Body::Inline(vec![]) });
    }

    fn link_orphan(&mut self, orphan: u32, directory: &[Name], name: Name) {
        self.stats.orphan_links += 1;
        let Entry::TableFile { share, body, .. } = self.at(&[ORPHAN_BASE + orphan]) else { panic!("orphan") };
        let share = if self.bug(Bug::OrphanOutNoShare) { 0 } else { share };
        self.table_remove(orphan);
        self.dir_insert(directory, name, Entry::File { share, body });
    }

    /// Drops, in the same record, the snapshot lists of own realms and directories inside.
    fn remove_tree(&mut self, path: &[Name]) {
        let (directory, name) = split(path);
        self.stats.drops += 1;
        let (own, around) = self.innermost_realm(directory);
        let table = self.table_entries(self.table);
        let mut lists = vec![];
        if own {
            self.own_snapshots_below(&self.at(path), own, around, &table, &mut lists);
        }
        lists.sort();
        lists.dedup();
        for key in lists {
            self.table_remove(key);
        }
        self.dir_remove(directory, name);
    }

    fn rename(
        &mut self,
        from: &[Name],
        directory: &[Name],
        name: Name,
        realm: u32,
        other_name: &Option<Path>,
        orphan: Option<u32>,
    ) {
        let (parent, old_name) = split(from);
        let path_share = self.path_share_of(parent);
        let mut entry = self.at(from);
        self.stats.renames += 1;
        if self.realm_path(parent) != self.realm_path(directory) {
            entry = self.cross_realms(entry, parent, directory, realm);
        }
        self.dir_remove(parent, old_name);
        if self.bug(Bug::MoveDropsShare)
            && let Entry::File { share, .. } = &mut entry
        {
            *share = 0;
        }
        if !self.bug(Bug::RenameNoPush) {
            Self::set_share(&mut entry, path_share);
        }
        if let Some(orphan) = orphan {
            self.move_to_orphans(directory, name, orphan);
        }
        let replaced = self.get(Self::root_of(&self.at(directory)), name);
        if let Some(Entry::Link(number)) = replaced {
            let around = self.realm_path(directory);
            self.drop_link_name(&around, number, other_name);
        }
        self.dir_insert(directory, name, entry);
    }

    /// The entry that moves from a directory of one realm to one of another: a realm gets its new home, a directory becomes
    /// a realm (with links or own snapshots inside: EXDEV, which the generator avoids).
    fn cross_realms(&mut self, mut entry: Entry, from: &[Name], to: &[Name], new_realm: u32) -> Entry {
        self.stats.xrenames += 1;
        let new_home = self.innermost_realm(to).1;
        if let Entry::Realm { home, .. } = &mut entry {
            *home = new_home;
        }
        let Entry::Directory { share, root, .. } = entry else { return entry };
        self.stats.dir_to_realm += 1;
        if self.node(root).flags & LINKS != 0 {
            fail!(self, "EXDEV: links inside")
        }
        let (own, around) = self.innermost_realm(from);
        let table = self.table_entries(self.table);
        let mut lists = vec![];
        self.own_snapshots_below(&entry, own, around, &table, &mut lists);
        if own && !lists.is_empty() && !self.bug(Bug::CrossWithSnaps) {
            fail!(self, "EXDEV: snapshots inside")
        }
        Entry::Realm {
            share,
            link_share: 0,
            read_only: false,
            root,
            links: 0,
            realm: new_realm,
            home: new_home,
            inode: 0,
            has_snapshots: false,
        }
    }

    fn clone_directory(&mut self, source: &Path, directory: &Path, name: Name, read_only: bool, realm: u32) {
        self.stats.clones += 1;
        self.stats.selfclone += u64::from(directory.starts_with(source));
        self.stats.snap_clones += u64::from(source.first().is_some_and(|head| *head >= SNAPSHOT_BASE));
        let home = self.innermost_realm(directory).1;
        let entry = self.fork(source, read_only, realm, home, 0);
        self.dir_insert(directory, name, entry);
    }

    fn take_snapshot(&mut self, directory: &[Name], snapshot: u32) {
        self.stats.snaps += 1;
        let home = self.innermost_realm(directory).1;
        let inode = match self.at(directory) {
            Entry::Directory { inode, .. } => inode,
            _ => 0,
        };
        let entry = self.fork(directory, true, SNAPSHOT_BASE + snapshot, home, inode);
        self.table_put(SNAPSHOT_BASE + snapshot, entry);
        if !self.bug(Bug::FlagSnapUnset) {
            self.set_snapshot_flag(directory, true);
        }
    }

    fn adopt(&mut self, path: &[Name], new_realm: u32) {
        self.stats.adopts += 1;
        let new_home = self.innermost_realm(split(path).0).1;
        let drop_share = self.bug(Bug::AdoptDropsShare);
        self.edit(path, &mut |_, mut entry, _| {
            let Entry::Realm { realm, home, share, link_share, .. } = &mut entry else { panic!("not a realm") };
            *realm = new_realm;
            *home = new_home;
            if drop_share {
                *share = 0;
                *link_share = 0;
            }
            entry
        });
    }

    fn embed_link(&mut self, file: &Path) {
        self.stats.embeds += 1;
        let Entry::Link(number) = self.at(file) else { panic!("not a link") };
        let realm = self.realm_path(split(file).0);
        self.drop_link_name(&realm, number, &Some(file.clone()));
    }

    fn clone_history(&mut self, batch: u32, directory: &[Name], name: Name, new_realm: u32) {
        let home = self.innermost_realm(directory).1;
        let share = self.share_now();
        let Some(h) = self.current.history.iter().find(|h| h.batch == batch) else {
            fail!(self, "history root is gone at replay")
        };
        if let Entry::Realm { root, links, .. } = h.roots.0 {
            let entry = Entry::Realm {
                share,
                link_share: 0,
                read_only: self.bug(Bug::HistPromote),
                root,
                links,
                realm: new_realm,
                home,
                inode: 0,
                has_snapshots: false,
            };
            self.dir_insert(directory, name, entry);
        }
    }

    fn clone_file(&mut self, source: &[Name], directory: &[Name], name: Name) {
        self.stats.fclones += 1;
        let share = self.share_now();
        let body = self.file_body(source);
        if !self.is_read_only(split(source).0) && !self.bug(Bug::FileCloneNoShare) {
            self.file_edit(source, Some(share), &mut |_, body, _| body);
        }
        self.dir_insert(directory, name, Entry::File { share, body });
    }

    fn reflink(&mut self, source: &[Name], target: &[Name], r: &Range) {
        self.stats.reflinks += 1;
        let share = if self.bug(Bug::ReflinkNoShare) { 0 } else { self.share_now() };
        let copied: Vec<Slice> = self
            .slices(&self.file_body(source))
            .into_iter()
            .filter_map(|x| {
                let from = x.start.max(r.source_block);
                let to = (x.start + x.len).min(r.source_block + r.blocks);
                (from < to).then(|| Slice {
                    start: from - r.source_block + r.target_block,
                    len: to - from,
                    extent: x.extent,
                    offset: x.offset + from - x.start,
                })
            })
            .collect();
        if !self.is_read_only(split(source).0) {
            self.file_edit(source, Some(share), &mut |_, body, _| body);
        }
        self.file_edit(target, Some(share), &mut |m, body, path_share| {
            let punched = m.body_punch(body, path_share, r.target_block, r.target_block + r.blocks);
            copied.iter().fold(punched, |body, slice| m.body_insert(body, path_share, slice.clone()))
        });
    }

    fn link(&mut self, file: &[Name], directory: &[Name], name: Name, number: u32) {
        self.stats.links += 1;
        let (parent, old_name) = split(file);
        let realm = self.realm_path(parent);
        match self.at(file) {
            Entry::File { share, body } => {
                let path_share = self.path_share_of(parent);
                let share = if self.bug(Bug::LinkConvNoPush) { share } else { share.max(path_share) };
                self.dir_insert(parent, old_name, Entry::Link(number));
                self.links_edit(&realm, &mut |m, table, path_share| {
                    m.insert(table, path_share, number, Entry::TableFile { share, nlink: 2, body: body.clone() })
                });
            }
            Entry::Link(_) => self.links_edit(&realm, &mut |m, table, path_share| match m.get(table, number) {
                Some(Entry::TableFile { share, nlink, body }) => {
                    m.insert(table, path_share, number, Entry::TableFile { share, nlink: nlink + 1, body })
                }
                _ => panic!("link entry"),
            }),
            _ => panic!("not a file"),
        }
        self.dir_insert(directory, name, Entry::Link(number));
    }
}
