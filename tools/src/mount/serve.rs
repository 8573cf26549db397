//! One mount from opening the store to closing it. Nothing here touches the mounted tree.

use super::claim::Claim;
use super::options::Settings;
use super::signals;
use anyhow::{Context as _, Result, anyhow, ensure};
use envoyfs_engine::device::{DeviceError, OpenMode, UringDevice};
use envoyfs_engine::hlc::SystemClock;
use envoyfs_engine::store::Store;
use envoyfs_engine::superblock;
use envoyfs_engine::{Engine, Options as EngineOptions, Settings as EngineSettings};
use envoyfs_fuse::commands::Identity;
use envoyfs_fuse::service::Service;
use envoyfs_layout::ClientTag;
use envoyfs_namespace::api::{Context, InodeId, SetAttributes};
use envoyfs_namespace::{Namespace, Options};
use nix::sys::signal::SigSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Opens, mounts, says `ready`, serves until the mount is gone, closes.
///
/// # Errors
/// What failed and what to do about it. After `ready` only a failed device or a failed last checkpoint.
pub fn run(settings: &Settings, signals: SigSet, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let store =
        settings.mount.source.canonicalize().with_context(|| {
            format!("{}: no such store (make one with mkfs.envoyfs)", settings.mount.source.display())
        })?;
    // Before the store is opened, which replays its log and publishes.
    let place = settings.directory.display();
    let directory = settings.directory.metadata().with_context(|| format!("cannot look at the mount point {place}"))?;
    ensure!(directory.is_dir(), "the mount point {place} is no directory");
    let device = open_device(&store, settings)?;
    // Before anything is written: recovery is.
    let _claim = claim(&device, &store)?;
    let engine = open_engine(device, &store, settings)?;
    let mut mount = settings.mount.clone();
    mount.source.clone_from(&store);
    if !mount.read_only && !engine.read_only().is_empty() {
        tracing::warn!(why = engine.read_only(), "mounting read-only");
        mount.read_only = true;
    }
    let namespace = open_namespace(&engine, settings, mount.read_only)?;
    let identity = Identity::of_this_process(store.as_os_str().as_bytes().to_vec(), mount.read_only);
    let served = Service::start(&namespace, &settings.directory, &mount, identity)
        .map_err(|error| anyhow!(error))
        .and_then(|service| {
            // From here the mount is visible; whatever fails must take it away again.
            let mount_point = service.mount_point().clone();
            tracing::info!(store = %store.display(), at = %mount_point.path().display(), "mounted");
            let begun = signals::watch(signals, mount_point.clone()).context("watching signals").and_then(|()| ready());
            if let Err(error) = begun {
                mount_point.detach(envoyfs_fuse::mount_point::Force::Abort)?;
                return Err(error);
            }
            service.serve().context("serving the mount")
        });
    let closed = namespace.close().context("the last checkpoint failed; the next mount replays the log");
    drop(namespace);
    let ended = engine.close().context("the store could not be closed; the next mount replays the log");
    drop(engine);
    tracing::info!(clean = served.is_ok() && closed.is_ok() && ended.is_ok(), "closed");
    served.and(closed).and(ended)
}

fn open_device(store: &Path, settings: &Settings) -> Result<UringDevice> {
    let mode = if settings.mount.read_only { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    UringDevice::open(store, mode, true).map_err(|error| match error {
        DeviceError::InUse { .. } => anyhow!(
            "{} is in use: it is mounted already, or another program holds it (findmnt -t fuse.envoyfs lists mounts)",
            store.display()
        ),
        other => anyhow!(other),
    })
}

/// None if there is no superblock to go by: the engine says what is there instead.
fn claim(device: &UringDevice, store: &Path) -> Result<Option<Claim>> {
    let Ok(opened) = superblock::open(device) else { return Ok(None) };
    Claim::take(Uuid::from_bytes(opened.superblock.identity), store).map(Some)
}

fn open_engine(device: UringDevice, store: &Path, settings: &Settings) -> Result<Arc<Engine>> {
    let options = EngineOptions {
        read_only: settings.mount.read_only,
        threads: true,
        accept_loss: settings.accept_loss,
        clock: Arc::new(SystemClock::new()),
        settings: EngineSettings { history: settings.history, ..settings.engine.clone() },
    };
    let mut engine = Engine::open_for(ClientTag::FILES, Arc::new(device), options)
        .with_context(|| format!("cannot open the store in {} (fsck.envoyfs tells more)", store.display()))?;
    if let Some(at) = settings.at {
        let shown = engine.travel_to(at).context("cannot show the tree as it was then")?;
        tracing::info!(checkpoint = shown.checkpoint, "an earlier state is shown");
    }
    Ok(Arc::new(engine))
}

fn open_namespace(engine: &Arc<Engine>, settings: &Settings, read_only: bool) -> Result<Arc<Namespace>> {
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).context("asking for random bytes")?;
    let store: Arc<dyn Store> = Arc::clone(engine) as Arc<dyn Store>;
    let options = Options { node_cache_bytes: settings.node_cache_bytes, threads: true, read_only, seed };
    let namespace =
        Namespace::open(store, options).context("cannot open the tree in the store (fsck.envoyfs tells more)")?;
    if !read_only {
        own_empty_tree(&namespace).context("giving the empty tree to its first user")?;
    }
    Ok(namespace)
}

/// A tree in which nothing was ever made belongs to who mounts it: a user who made an image for himself can write in it.
fn own_empty_tree(namespace: &Namespace) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let cx = Context::local(uid, gid);
    let root = namespace.getattr(&cx, InodeId::ROOT)?;
    let mut names = 0;
    namespace.readdir(&cx, InodeId::ROOT, 2, &mut |_| {
        names += 1;
        false
    })?;
    if names == 0 && root.mtime == root.btime && root.ctime == root.btime && root.uid != uid {
        let owner = SetAttributes { uid: Some(uid), gid: Some(gid), ..SetAttributes::default() };
        namespace.setattr(&cx, InodeId::ROOT, &owner)?;
    }
    Ok(())
}
