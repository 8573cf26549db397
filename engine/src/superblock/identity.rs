//! Publishing the directory as it is, with other words beside it in the superblock: another identity, since that of a copied image is taken (DESIGN 6), or that a repair left errors; or
//! only to have two good copies of it again.
//!
//! A publication like any other: the volume directory as it is into slots that nothing names, flush, then the superblock that differs in nothing else. Nothing in the store
//! is checked against the identity, so log, pages and segments stay as they are. If power fails at any moment, the store has the old identity or the new one, and is
//! otherwise the same.

use super::{OpenError, Opened, open, publish, read_published, repair, write_directory};
use crate::device::Device;
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::superblock::Superblock;

/// Makes `identity` the store's; returns the superblock that rules then. The device is held exclusively: nobody has it mounted.
///
/// # Errors
/// The store does not open, or may only be read; the device failed, and which of the two identities rules is open until the next look.
pub fn set_identity(device: &dyn Device, identity: [u8; 16]) -> Result<Opened, OpenError> {
    change(device, |next| next.identity = identity)
}

/// Notes whether errors are left in the store, so that the next check is made although it was unmounted.
///
/// # Errors
/// As [`set_identity`].
pub fn set_errors(device: &dyn Device, errors: bool) -> Result<Opened, OpenError> {
    change(device, |next| next.errors = errors)
}

/// Writes the volume directory anew, where a copy of it is damaged.
///
/// # Errors
/// As [`set_identity`].
pub fn renew_directory(device: &dyn Device) -> Result<Opened, OpenError> {
    change(device, |_| {})
}

fn change(device: &dyn Device, what: impl FnOnce(&mut Superblock)) -> Result<Opened, OpenError> {
    // As a mount does: what is read may still be in the device's cache only (INV-20).
    device.flush()?;
    let opened = open(device)?;
    if let Some(why) = opened.read_only {
        return Err(OpenError::OnlyRead { device: device.label(), why });
    }
    opened.refuse_foreign(device)?;
    let (entry, mut table) = read_published(device, &opened.superblock)?;
    let mut directory = VolumeDirectory { sequence: 0, entry, table: table.rows().to_vec() };
    repair(device, &opened)?;
    // The other copy of the table was not looked at.
    table.renew();
    let mut next = opened.superblock.next();
    what(&mut next);
    write_directory(device, &mut next, &mut directory, &mut table)?;
    device.flush()?;
    publish(device, &next)?;
    open(device)
}
