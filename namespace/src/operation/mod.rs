//! The operations that front ends call, by what they concern. Each reserves, takes the freeze lock (shared) and the states concerned, validates, appends its record and applies it.

mod attributes;
mod create;
mod data;
mod links;
mod look;
mod remove;
pub(crate) mod rename;

use crate::api::Result;
use crate::namespace::{Namespace, Stamp};
use crossbeam::sync::{ShardedLockReadGuard, ShardedLockWriteGuard};
use envoyfs_engine::store::Appended;
use std::sync::PoisonError;

/// Bytes of a record's fixed fields and header, more than any kind needs.
pub(crate) const RECORD_BYTES: usize = 256;

impl Namespace {
    /// The freeze lock for a change.
    pub(crate) fn change(&self) -> ShardedLockReadGuard<'_, ()> {
        self.freeze.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The freeze lock for what must have the tree alone.
    pub(crate) fn alone(&self) -> ShardedLockWriteGuard<'_, ()> {
        self.freeze.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the changes of a record are stamped with. Caller holds the freeze lock.
    pub(crate) fn stamp(&self, appended: Appended) -> Stamp {
        Stamp { epoch: self.epoch(), hlc: appended.hlc }
    }

    /// After the record is in the log nothing may fail; if it does, memory and log differ and the namespace stops.
    pub(crate) fn applied<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.fail(format!("a record could not be applied: {error}"));
        }
        result
    }
}
