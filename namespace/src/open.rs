//! Opening and closing: the first tree of a fresh store, roots, replay, orphans, the last checkpoint.

use crate::api::{Error, FileType, Result};
use crate::directory::Directory;
use crate::inode::{Inode, Place, State};
use crate::layered::Layered;
use crate::namespace::{Namespace, Options};
use crate::realm::{Realm, VIEW};
use crate::table::{RealmItem, Table};
use crate::tree::damaged;
use envoyfs_engine::store::{Counter, Need, Reason, Store, Tier, Usage};
use envoyfs_engine::{MemoryBound, StoreError};
use envoyfs_layout::inode::mode;
use envoyfs_layout::key::{RealmItemKind, RealmKey};
use envoyfs_layout::operation::Operation;
use envoyfs_layout::territory::TERRITORY_ROOT;
use envoyfs_layout::{ClientRoots, DirectoryAttributes, Hlc, TerritoryRecord, Totals, key};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Inode number of the view's root.
const ROOT_NUMBER: u64 = 1;
/// Inode numbers and realm ids below this are not handed out.
const RESERVED_NUMBERS: u64 = 16;

/// What a namespace is doing, for `envoyfs status`.
#[derive(Clone, Debug)]
pub struct Status {
    /// The store's space and activity.
    pub usage: Usage,
    /// Inodes in memory.
    pub live_inodes: u64,
    /// Bytes of nodes in memory.
    pub node_cache_bytes: u64,
    /// Bytes of nodes that may be in memory.
    pub node_cache_bytes_max: u64,
    /// How much memory the store takes at most beside them, if it knows.
    pub memory: Option<MemoryBound>,
    /// Why changes are refused, if they are.
    pub failure: Option<String>,
}

impl Namespace {
    /// Opens the tree on a store: makes the first one when there is none, replays the log, drops files that were open without a name.
    ///
    /// Read-only, a record that cannot be replayed, because what it changes is damaged, ends the replay: what is shown is the state before it, and [`Namespace::status`] says so.
    ///
    /// # Errors
    /// Roots or records that cannot be read; the store is as it was then.
    pub fn open(store: Arc<dyn Store>, options: Options) -> Result<Arc<Self>> {
        let mut namespace = Arc::new(Self::bare(Arc::clone(&store), options));
        let roots = namespace.store.recovered_roots();
        if roots.blob.is_empty() {
            namespace.first_tree()?;
        } else {
            let roots = ClientRoots::decode(&roots.blob, &roots.references).map_err(damaged)?;
            namespace.load_roots(&roots)?;
            let records = namespace.store.take_replay();
            if let Err((index, error)) = namespace.replay(&records) {
                if !namespace.options.read_only {
                    return Err(error);
                }
                let options = namespace.options.clone();
                namespace = Arc::new(Self::bare(store, options));
                namespace.load_roots(&roots)?;
                let prefix = records.get(..index).unwrap_or_default();
                namespace.replay(prefix).map_err(|(_, error)| error)?;
                let left = records.len() - index;
                namespace.fail(format!(
                    "the last {left} operations in the log cannot be shown: {error}; fsck.envoyfs -y repairs it"
                ));
            }
        }
        if !namespace.options.read_only {
            namespace.skip_reserved_numbers()?;
            namespace.drop_orphans()?;
            namespace.inodes.sweep();
            if namespace.options.threads {
                namespace.start_checkpointer()?;
            }
        }
        Ok(namespace)
    }

    fn skip_reserved_numbers(&self) -> Result<()> {
        for counter in [Counter::Inode, Counter::Realm] {
            loop {
                match self.store.number(counter) {
                    Ok(number) if number + 1 < RESERVED_NUMBERS => {}
                    // Used up: files can be read and deleted, not made.
                    Ok(_) | Err(StoreError::UsedUp { .. }) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn first_tree(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly("the store was never mounted; mount it once for writing".into()));
        }
        let now = self.timestamp();
        let attributes = DirectoryAttributes {
            mode: mode::DIRECTORY | 0o755,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            hash_key: self.options.seed,
            parent_inode: ROOT_NUMBER,
            ..DirectoryAttributes::default()
        };
        let realm = Arc::new(Realm::new(VIEW, VIEW, VIEW, false, Table::new(None, Totals::ZERO), Hlc::ZERO));
        let state = State::Directory(Box::new(Directory::new(attributes, Hlc::ZERO.birth(), self.epoch())));
        let root =
            Arc::new(Inode::new(realm.clone(), ROOT_NUMBER, 0, FileType::Directory, Hlc::ZERO, Place::View, state));
        realm.set_root(&root);
        let root = self.inodes.get_or_insert_arc(root.id, || root.clone());
        self.set_root(root);
        self.checkpoint()
    }

    fn load_roots(&self, roots: &ClientRoots) -> Result<()> {
        let found = self.trees.territories.get(&self.nodes, &roots.territory_table, &key::territory(TERRITORY_ROOT))?;
        let item = found.ok_or_else(|| self.inconsistent("there is no root territory"))?;
        let record = TerritoryRecord::decode(&item.value, &item.references).map_err(damaged)?;
        let view = record.view.ok_or_else(|| self.inconsistent("the root territory has no view"))?;
        self.stored.lock().territories = Some(roots.territory_table);
        *self.realm_table.write() = Layered::new(Some(roots.realm_table), Totals::ZERO);
        let root = self.load_realm(&view, Place::View)?;
        self.set_root(root);
        Ok(())
    }

    /// Files that were open without a name when the store was last in use. The log may be as full as the crash left it, and nobody else makes checkpoints yet.
    fn drop_orphans(&self) -> Result<()> {
        let mut orphans = Vec::new();
        self.realm_table.read().scan(&self.nodes, &self.trees.realms, Bound::Unbounded, &mut |key, item| {
            if let (Ok(RealmKey { realm, kind: RealmItemKind::Orphan, id, .. }), RealmItem::Orphan(_)) =
                (RealmKey::decode(key), item)
            {
                orphans.push((realm, id));
            }
            ControlFlow::Continue(())
        })?;
        for (realm, inode) in orphans {
            if self.store.wait_checkpoint(0) == Some(Reason::Log) {
                self.checkpoint()?;
            }
            let need = Need { log_bytes: 64, node_bytes: 1024, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
            let mut permit = self.store.reserve(need)?;
            let _change = self.change();
            let stamp = self.stamp(self.append(&mut permit, &Operation::OrphanDrop { realm, inode }, &[])?);
            self.applied(self.apply_orphan_drop(stamp, realm, inode))?;
        }
        Ok(())
    }

    /// What the namespace is doing.
    pub fn status(&self) -> Status {
        Status {
            usage: self.store.usage(),
            live_inodes: u64::try_from(self.inodes.all().len()).unwrap_or(u64::MAX),
            node_cache_bytes: self.nodes.cached_bytes(),
            node_cache_bytes_max: self.nodes.cache_bytes_max(),
            memory: self.store.memory_bound(),
            failure: self.failure(),
        }
    }

    /// What the store counts and times, as OpenMetrics text; empty if it does not.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.store.metrics().map(|metrics| metrics.exposition()).unwrap_or_default()
    }

    /// Ends the checkpointer, makes a last checkpoint and waits until everything is durable.
    ///
    /// # Errors
    /// What a checkpoint or sync says. What was durable before is in the log.
    pub fn close(&self) -> Result<()> {
        self.closing.store(true, Ordering::Release);
        if let Some(thread) = self.checkpointer.lock().take()
            && thread.join().is_err()
        {
            self.fail("the checkpointer panicked".into());
        }
        // After the checkpointer, which starts it; it ends by itself now.
        let marker = self.marker.lock().take();
        if marker.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a mark panicked");
        }
        if self.options.read_only {
            return Ok(());
        }
        self.checkpoint()?;
        self.sync()
    }
}
