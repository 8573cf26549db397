//! Stores that are made to be measured and thrown away. Refuses what a device holds, unless it is a scratch store.

use anyhow::{Context as _, Result, ensure};
use envoyfs_engine::device::{Device, OpenMode, UringDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::{Engine, Options, Settings, signature};
use envoyfs_layout::ClientTag;
use envoyfs_tools::bench::disk::{LABEL, is_scratch};
use std::path::Path;
use std::sync::Arc;

/// A store in the directory of shared memory, without a name: gone when it is dropped.
///
/// # Errors
/// No room, or no direct IO there.
pub fn in_memory(bytes: u64) -> Result<Arc<dyn Device>> {
    let file = tempfile::Builder::new().prefix("envoyfs-bench-").tempfile_in("/dev/shm")?;
    file.as_file().set_len(bytes)?;
    let device: Arc<dyn Device> = Arc::new(UringDevice::open(file.path(), OpenMode::ReadWrite, true)?);
    make(&device)?;
    // The device holds the file open; its name is not needed any more.
    drop(file);
    Ok(device)
}

/// Opens a device or image for a scratch store and formats it.
///
/// # Errors
/// It holds something else, or fails.
pub fn on(path: &Path) -> Result<Arc<dyn Device>> {
    let device: Arc<dyn Device> = Arc::new(open(path)?);
    let found = signature::probe_device(&*device)?;
    ensure!(
        found.is_empty() || is_scratch(path),
        "{} contains: {}; nothing is measured on it",
        path.display(),
        signature::names(&found)
    );
    make(&device)?;
    Ok(device)
}

/// Opens a device or image as it is.
///
/// # Errors
/// It is in use, or cannot be opened.
pub fn open(path: &Path) -> Result<UringDevice> {
    UringDevice::open(path, OpenMode::ReadWrite, true).with_context(|| format!("opening {}", path.display()))
}

fn make(device: &Arc<dyn Device>) -> Result<()> {
    let options = FormatOptions {
        label: LABEL.into(),
        uuid: uuid::Uuid::new_v4().into_bytes(),
        seed: uuid::Uuid::new_v4().into_bytes(),
        now_ns: SystemClock::new().wall_ns(),
        wal_bytes: None,
        segment_bytes: None,
        force: true,
        small: false,
    };
    format(&**device, &options).context("formatting the store")?;
    Ok(())
}

/// The engine on it.
///
/// # Errors
/// What opening reports.
pub fn engine(device: &Arc<dyn Device>) -> Result<Arc<Engine>> {
    engine_of(ClientTag::UNNAMED, device)
}

/// The engine on a store of this client.
///
/// # Errors
/// What opening reports.
pub fn engine_of(client: ClientTag, device: &Arc<dyn Device>) -> Result<Arc<Engine>> {
    let options = Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::new(SystemClock::new()),
        settings: Settings::default(),
    };
    Ok(Arc::new(Engine::open_for(client, Arc::clone(device), options)?))
}
