//! Giving a file another name.

use crate::api::{Attributes, Context, Error, FileType, InodeId, Result};
use crate::apply::Locked;
use crate::charge::entry_bytes;
use crate::directory::{Found, check_name};
use crate::inode::Place;
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::Tier;
use envoyfs_layout::operation::Operation;

/// Most names of a file.
const NLINK_MAX: u32 = 65_000;

impl Namespace {
    /// Gives a file another name in its realm and raises its lookup count.
    ///
    /// # Errors
    /// `NotPermitted` for a directory, `CrossRealm`, `Exists`, `NotFound` if it has no name any more, `TooManyLinks`, `NoSpace`, `ReadOnly`, `Stale`.
    pub fn link(&self, cx: &Context, id: InodeId, new_parent: InodeId, new_name: &[u8]) -> Result<Attributes> {
        self.check(cx)?;
        check_name(new_name)?;
        let (inode, parent) = (self.live(id)?, self.live(new_parent)?);
        if inode.file_type == FileType::Directory {
            return Err(Error::NotPermitted("a directory has one name; fork it instead"));
        }
        if inode.realm.id != parent.realm.id {
            return Err(Error::CrossRealm("a link from one fork into another; fork the file instead"));
        }
        let time = self.timestamp();
        let mut reserved = vec![&inode, &parent];
        let place = inode.place();
        if let Place::Named { parent: first, .. } = &place {
            reserved.push(first);
        }
        let more = self.charge_links(&inode.realm, entry_bytes(&inode));
        let mut permit = self.reserve_more(more, &reserved, RECORD_BYTES + new_name.len(), 0, 0, Tier::Writer)?;
        loop {
            let _change = self.change();
            let place = inode.place();
            let mut to_lock = vec![&inode, &parent];
            if let Place::Named { parent: first, .. } = &place {
                to_lock.push(first);
            }
            let mut locked = Locked::new(to_lock);
            let moved = match (&place, inode.place()) {
                (Place::Named { parent: a, key: k }, Place::Named { parent: b, key: l }) => a.id != b.id || *k != l,
                (Place::Linked(_), Place::Linked(_)) => false,
                (_, Place::Orphan | Place::Gone) => return Err(Error::NotFound),
                _ => true,
            };
            if moved {
                continue; // a rename or link came between
            }
            parent.check_writable()?;
            let state = locked.state(&inode)?;
            if state.inode().is_some_and(|stored| stored.nlink >= NLINK_MAX) {
                return Err(Error::TooManyLinks);
            }
            let directory = locked.directory(&parent)?;
            let Found::Absent(key) = directory.find(&self.nodes, &self.trees.directory, new_name)? else {
                return Err(Error::Exists);
            };
            let handle = self.bind(&mut permit, &inode)?;
            let parent_handle = self.bind(&mut permit, &parent)?;
            let operation = Operation::Link { handle, parent: parent_handle, time, name: new_name.to_vec() };
            let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
            self.applied(self.apply_link(stamp, &mut locked, &inode, &parent, key, time))?;
            drop(locked);
            return Ok(self.known(&inode));
        }
    }
}
