//! A mounted namespace: dispatcher, notifier, transport and mount point put together.

use crate::commands::Identity;
use crate::dispatch::Dispatcher;
use crate::front::Front;
use crate::mount_point::{Force, MountError, MountOptions, MountPoint, attach};
use crate::notifier::{Notifier, NotifierThread};
use crate::transport::fuser::Session;
use envoyfs_namespace::Namespace;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A mount whose requests [`Service::serve`] answers.
pub struct Service {
    session: Session,
    mount_point: MountPoint,
    notifier: NotifierThread,
}

impl Service {
    /// Mounts. Clients' first requests wait until [`Service::serve`].
    ///
    /// # Errors
    /// See [`MountError`]; nothing stays mounted.
    pub fn start(
        namespace: &Arc<Namespace>,
        path: &Path,
        options: &MountOptions,
        identity: Identity,
    ) -> Result<Self, MountError> {
        let (notifier, unconnected) = Notifier::new();
        namespace.set_observer(Arc::new(notifier.clone()));
        let dispatcher =
            Dispatcher::new(Arc::clone(namespace), notifier.clone(), identity).map_err(MountError::Threads)?;
        let front: Arc<dyn Front> = Arc::new(dispatcher);
        let (mount_point, device) = attach(path, options)?;
        let started =
            Session::start(device, front, options.threads).map_err(MountError::Handshake).and_then(|session| {
                let notifier = unconnected.start(&notifier, session.caches()).map_err(MountError::Threads)?;
                Ok((session, notifier))
            });
        match started {
            Ok((session, notifier)) => {
                let raised = crate::readahead::raise(mount_point.path());
                tracing::debug!(raised, kib = crate::readahead::READ_AHEAD_KIB, "readahead of the mount");
                Ok(Self { session, mount_point, notifier })
            }
            Err(error) => {
                if let Err(also) = mount_point.detach(Force::Abort) {
                    tracing::warn!(%also, "the mount that could not be served stays");
                }
                Err(error)
            }
        }
    }

    /// Where it is mounted; to unmount it from another thread.
    #[must_use]
    pub fn mount_point(&self) -> &MountPoint {
        &self.mount_point
    }

    /// Answers requests until the mount is gone. The namespace is still open then.
    ///
    /// # Errors
    /// The device failed otherwise than by an unmount or abort.
    pub fn serve(self) -> io::Result<()> {
        let Self { session, mount_point: _, notifier } = self;
        let result = session.serve();
        drop(notifier);
        result
    }
}
