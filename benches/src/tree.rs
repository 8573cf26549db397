//! A namespace on a scratch store: files, small trees, forks.

use crate::scratch;
use anyhow::{Result, anyhow};
use envoyfs_engine::Engine;
use envoyfs_engine::device::Device;
use envoyfs_engine::store::Store;
use envoyfs_namespace::api::{Context, InodeId, Make};
use envoyfs_namespace::{Namespace, Options};
use std::sync::Arc;

/// Who asks.
pub const CX: Context = Context::local(0, 0);

/// See the module.
pub struct Tree {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The namespace.
    pub namespace: Arc<Namespace>,
}

impl Tree {
    /// Opens the tree of a store; with `threads`, checkpoints are made in the background.
    ///
    /// # Errors
    /// What opening reports.
    pub fn open(device: &Arc<dyn Device>, threads: bool) -> Result<Self> {
        Self::on(scratch::engine(device)?, threads)
    }

    /// On an engine that is open.
    ///
    /// # Errors
    /// What opening reports.
    pub fn on(engine: Arc<Engine>, threads: bool) -> Result<Self> {
        let store: Arc<dyn Store> = Arc::clone(&engine) as Arc<dyn Store>;
        let options = Options { node_cache_bytes: 256 << 20, threads, read_only: false, seed: [7; 16] };
        let namespace = Namespace::open(store, options).map_err(|error| anyhow!("opening the tree: {error}"))?;
        Ok(Self { engine, namespace })
    }

    /// A directory.
    ///
    /// # Errors
    /// What the namespace reports.
    pub fn directory(&self, parent: InodeId, name: &str) -> Result<InodeId> {
        Ok(self.namespace.make(&CX, parent, name.as_bytes(), &Make::Directory, 0o755)?.id)
    }

    /// A file of so many bytes.
    ///
    /// # Errors
    /// What the namespace reports.
    pub fn file(&self, parent: InodeId, name: &str, bytes: usize) -> Result<()> {
        let made = self.namespace.make(&CX, parent, name.as_bytes(), &Make::File, 0o644)?;
        let contents: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap_or(0)).collect();
        self.namespace.write(&CX, made.id, 0, &contents)?;
        self.namespace.forget(made.id, 1);
        Ok(())
    }

    /// Forks a directory.
    ///
    /// # Errors
    /// What the namespace reports.
    pub fn fork(&self, source: InodeId, parent: InodeId, name: &str) -> Result<()> {
        let made = self.namespace.fork(&CX, source, parent, name.as_bytes())?;
        self.namespace.forget(made.id, 1);
        Ok(())
    }

    /// A directory with ten files of 4 KiB, stored.
    ///
    /// # Errors
    /// What the namespace reports.
    pub fn source(&self) -> Result<InodeId> {
        let source = self.directory(InodeId::ROOT, "source")?;
        for index in 0..10 {
            self.file(source, &format!("file-{index}"), 4096)?;
        }
        self.namespace.checkpoint()?;
        Ok(source)
    }
}
