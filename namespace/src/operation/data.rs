//! File data: open, read, write, seek, durability.

use crate::api::{Context, Error, InodeId, Result};
use crate::apply::Locked;
use crate::file::{Edit, FILE_BYTES_MAX, split};
use crate::inode::{Inode, Place};
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::{DataHint, DataObject, OnDurable, Permit, Tier};
use envoyfs_layout::operation::Operation;
use envoyfs_layout::{BLOCK, Lsn};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of one record's data at most; a longer write is several records.
const WRITE_AT_ONCE: usize = 4 << 20;

/// Data objects that are written but not yet named by a record: given up unless the record is appended.
struct Unnamed<'a> {
    namespace: &'a Namespace,
    objects: Vec<(u64, DataObject)>,
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        for (_, object) in &self.objects {
            self.namespace.store.abandon_data(object);
        }
    }
}

impl Namespace {
    /// Counts an open of a file, so that it outlives its last name until the last close.
    ///
    /// # Errors
    /// `Stale`; `ReadOnly` to write into a snapshot or a read-only mount.
    pub fn open_file(&self, cx: &Context, id: InodeId, write: bool) -> Result<()> {
        let inode = self.live(id)?;
        if write {
            self.check(cx)?;
            if inode.realm.read_only {
                return Err(Error::ReadOnly("a snapshot never changes; fork it to get a writable copy".into()));
            }
        }
        let _state = inode.read(); // whoever removes the last name decides under this lock what becomes of it
        if !inode.is_alive() {
            return Err(Error::Stale);
        }
        inode.opens.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Counts a close. The last one of a file without a name drops it.
    ///
    /// # Errors
    /// The file is dropped at the next mount if its record could not be appended now.
    pub fn close_file(&self, _cx: &Context, id: InodeId) -> Result<()> {
        let Some(inode) = self.inodes.get(id) else { return Ok(()) };
        let before = {
            let _state = inode.read(); // as in `open_file`: either the last name goes after this, or the file is an orphan already
            inode.opens.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_sub(1))).unwrap_or(0)
        };
        if before > 1 {
            return Ok(());
        }
        let dropped = if matches!(inode.place(), Place::Orphan) { self.drop_orphan(&inode) } else { Ok(()) };
        self.inodes.evict(inode);
        dropped
    }

    /// ORPHAN_DROP of a file that nobody has open.
    pub(crate) fn drop_orphan(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.failure().is_some() || self.options.read_only {
            return Ok(()); // the next mount drops it
        }
        let mut permit = self.reserve(&[inode], RECORD_BYTES, 0, 0, Tier::Last)?;
        let _change = self.change();
        let _locked = Locked::new([inode]);
        if !matches!(inode.place(), Place::Orphan) || inode.opens.load(Ordering::Acquire) > 0 {
            return Ok(());
        }
        let operation = Operation::OrphanDrop { realm: inode.realm.id, inode: inode.number };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        self.applied(self.apply_orphan_drop(stamp, inode.realm.id, inode.number))
    }

    /// Reads at most `into.len()` bytes and says how many; fewer only at the end. Verified by checksums. Holds the file's lock shared.
    ///
    /// # Errors
    /// `IsDirectory`, `Stale`, or bytes that do not verify.
    pub fn read(&self, _cx: &Context, id: InodeId, offset: u64, into: &mut [u8]) -> Result<usize> {
        let inode = self.live(id)?;
        let state = inode.read();
        let file = state.file()?;
        file.content.read(&self.nodes, file.attributed.inode.size, offset, into)
    }

    /// Writes all of `data`. Whole blocks go straight to a segment, the rest into the log.
    ///
    /// # Errors
    /// `NoSpace`, `FileTooLarge`, `ReadOnly`, `Stale`, or a failed read of a block that is changed in part. What earlier parts of a long write did stays.
    pub fn write(&self, cx: &Context, id: InodeId, offset: u64, data: &[u8]) -> Result<usize> {
        self.check(cx)?;
        let inode = self.live(id)?;
        let mut at = offset;
        for part in data.chunks(WRITE_AT_ONCE) {
            at = match self.write_part(&inode, at, part, true)? {
                Some(end) => end,
                None => self.write_part(&inode, at, part, false)?.ok_or(Error::Stale)?,
            };
        }
        Ok(data.len())
    }

    /// Bytes that the small pieces of a write need in memory until the next checkpoint: a block for each that they touch, but for those that are there already if `known`.
    fn payload_bytes(&self, inode: &Inode, offset: u64, pieces: &[std::ops::Range<usize>], known: bool) -> Result<u64> {
        let state = inode.read();
        let file = state.file()?;
        let known = known && file.attributed.epoch == self.epoch();
        let block_of = |position: usize| offset.saturating_add(u64::try_from(position).unwrap_or(0)) / u64::from(BLOCK);
        let touched = pieces.iter().flat_map(|piece| block_of(piece.start)..=block_of(piece.end.saturating_sub(1)));
        let fresh = touched.filter(|block| !(known && file.content.is_payload(*block)));
        Ok(fresh.map(|_| u64::from(BLOCK)).sum())
    }

    /// One record's worth; where it ends. `None`: what was in memory when the room was reserved has been frozen meanwhile, so that more is needed.
    fn write_part(&self, inode: &Arc<Inode>, offset: u64, data: &[u8], known: bool) -> Result<Option<u64>> {
        let end =
            u64::try_from(data.len()).ok().and_then(|len| offset.checked_add(len)).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(Error::FileTooLarge)?;
        let limits = self.store.limits();
        let split = split(offset, data.len());
        let small: usize = split.pieces.iter().map(|piece| piece.len() + 16).sum();
        let direct = u64::try_from(split.direct.len()).unwrap_or(0);
        let checksums = split.direct.len() / 1024 + 64;
        let payload = self.payload_bytes(inode, offset, &split.pieces, known)?;
        let mut permit = self.reserve(&[inode], RECORD_BYTES + small + checksums, payload, direct, Tier::Writer)?;
        let mut unnamed = Unnamed { namespace: self, objects: Vec::new() };
        self.write_direct(&mut permit, inode, offset, data, &mut unnamed.objects)?;
        let time = self.timestamp();

        let _change = self.change();
        let mut locked = Locked::new([inode]);
        inode.check_writable()?;
        let share = inode.path_share();
        let file = locked.state(inode)?.file_mut()?;
        file.touch(self.epoch(), envoyfs_layout::Hlc::ZERO);
        for (block, object) in &mut unnamed.objects {
            object.extends = file.content.extends(share, *block, object, limits.extent_bytes_max);
        }
        let at = |position: usize| offset.saturating_add(u64::try_from(position).unwrap_or(0));
        let pieces: Vec<(u64, &[u8])> =
            split.pieces.iter().map(|piece| (at(piece.start), data.get(piece.clone()).unwrap_or_default())).collect();
        let objects: Vec<(u64, &DataObject)> = unnamed.objects.iter().map(|(block, object)| (*block, object)).collect();
        let size = file.attributed.inode.size;
        let prepared = file.content.prepare(&self.nodes, size, &Edit::Write { pieces: &pieces, direct: &objects })?;
        let blocks = pieces.iter().flat_map(|(at, bytes)| {
            let end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
            at / u64::from(BLOCK)..end.div_ceil(u64::from(BLOCK))
        });
        let needed: u64 = blocks.filter(|block| !file.content.is_payload(*block)).map(|_| u64::from(BLOCK)).sum();
        if needed > payload {
            return Ok(None);
        }
        let size = size.max(end);
        let operation = Operation::Write {
            handle: self.bind(&mut permit, inode)?,
            size,
            time,
            pieces: pieces.iter().map(|(offset, bytes)| (*offset, bytes.to_vec())).collect(),
            direct: objects.iter().map(|(block, _)| *block).collect(),
        };
        let named: Vec<DataObject> = objects.iter().map(|(_, object)| (*object).clone()).collect();
        let stamp = self.stamp(self.append(&mut permit, &operation, &named)?);
        unnamed.objects.clear();
        self.applied(self.apply_write(stamp, &mut locked, inode, prepared, size, time))?;
        Ok(Some(end))
    }

    /// Starts writing the whole blocks of a write.
    fn write_direct(
        &self,
        permit: &mut Permit,
        inode: &Arc<Inode>,
        offset: u64,
        data: &[u8],
        objects: &mut Vec<(u64, DataObject)>,
    ) -> Result<()> {
        let split = split(offset, data.len());
        if split.direct.is_empty() {
            return Ok(());
        }
        let block_of = |position: usize| offset.saturating_add(u64::try_from(position).unwrap_or(0)) / u64::from(BLOCK);
        let mut after = inode.read().file()?.content.last_object(block_of(split.direct.start));
        for range in split.objects(self.store.limits().extent_bytes_max) {
            let mut at = range.start;
            while at < range.end {
                let replaces = inode.read().file()?.content.stored_at(&self.nodes, block_of(at));
                let hint = DataHint { after, owner: inode.number, replaces };
                let object = self.store.append_part(permit, &hint, data.get(at..range.end).unwrap_or_default())?;
                after = Some((object.oid, object.stored_bytes));
                let taken = usize::try_from(object.stored_bytes).unwrap_or(usize::MAX);
                objects.push((block_of(at), object));
                at = at.saturating_add(taken);
            }
        }
        Ok(())
    }

    /// First data at or after an offset.
    ///
    /// # Errors
    /// `BeyondEnd` if there is none.
    pub fn seek_data(&self, _cx: &Context, id: InodeId, offset: u64) -> Result<u64> {
        self.seek(id, offset, true)
    }

    /// First hole at or after an offset; the end is one.
    ///
    /// # Errors
    /// `BeyondEnd` at or beyond the end.
    pub fn seek_hole(&self, _cx: &Context, id: InodeId, offset: u64) -> Result<u64> {
        self.seek(id, offset, false)
    }

    fn seek(&self, id: InodeId, offset: u64, data: bool) -> Result<u64> {
        let inode = self.live(id)?;
        let state = inode.read();
        let file = state.file()?;
        file.content.seek(&self.nodes, file.attributed.inode.size, offset, data)?.ok_or(Error::BeyondEnd)
    }

    /// Everything that has happened so far is before this position of the log.
    pub fn sync_point(&self) -> Lsn {
        self.store.end()
    }

    /// Calls back once everything before the position is durable (INV-18).
    pub fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        self.store.on_durable(lsn, done);
    }

    /// Waits until everything that has happened is durable.
    ///
    /// # Errors
    /// The store is poisoned: what was not durable before may be lost.
    pub fn sync(&self) -> Result<()> {
        Ok(self.store.commit(self.store.end())?)
    }
}
