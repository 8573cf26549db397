//! One mount of an identity at a time on a host (DESIGN 6): a copy of an image is the same store to everybody who goes by its identity, and a loop device over an image *is* the same.
//! Whatever else writes to a store that is not mounted (`fsck.envoyfs`, `envoyfs identity`) holds the claim too, so that no mount begins meanwhile.
//!
//! The claim is a listening socket with the identity in its abstract name: it ends with the process, whatever ends it, leaves no file behind, and every user sees it. It holds within
//! a network namespace: containers with networks of their own are hosts of their own here. If power fails: nothing is left of it.

use crate::cli::mounts;
use crate::inspect;
use anyhow::{Context as _, Result, bail};
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use uuid::Uuid;

/// Before the identity in the socket's name.
const NAME: &str = "envoyfs-identity-";

/// Held while the store is open.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixListener,
}

impl Claim {
    /// Claims an identity for the store at `path`.
    ///
    /// # Errors
    /// A store with that identity is mounted, or being repaired; says which, where, and what to do.
    pub fn take(identity: Uuid, path: &Path) -> Result<Self> {
        let name = SocketAddr::from_abstract_name(format!("{NAME}{identity}"))?;
        match UnixListener::bind_addr(&name) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let shown = path.display();
                bail!(
                    "a store with the same identity as {shown} ({identity}) is mounted already, or being repaired: {}. If {shown} is a copy, give it an identity of its own: envoyfs identity --new {shown}",
                    holder(identity)
                )
            }
            Err(error) => Err(error).context("claiming the store's identity on this host"),
        }
    }
}

/// Who holds an identity: the mount, if it is visible here and its store may be read.
fn holder(identity: Uuid) -> String {
    let mounts = mounts::all().unwrap_or_default();
    let held = |mount: &&mounts::Mount| {
        mount.is_envoyfs() && inspect::identity_of(&mount.source).is_ok_and(|found| found == identity)
    };
    match mounts.iter().find(held) {
        Some(mount) => format!("{} on {}", mount.source.display(), mount.at.display()),
        None => format!("the process that 'ss -xlp' shows with {NAME}{identity}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_claimed_once_until_it_is_let_go_and_the_holder_is_named() {
        let (identity, path) = (Uuid::new_v4(), Path::new("/x/copy.img"));
        let claim = Claim::take(identity, path).unwrap();
        let _other = Claim::take(Uuid::new_v4(), path).unwrap();
        let error = Claim::take(identity, path).unwrap_err().to_string();
        assert!(error.contains(&format!("envoyfs-identity-{identity}")), "{error}");
        assert!(error.contains("envoyfs identity --new /x/copy.img"), "{error}");
        drop(claim);
        Claim::take(identity, path).unwrap();
    }
}
