//! Cases with a story.

use super::Machine;
use crate::api::Error;
use crate::file::{Content, Edit, FILE_BYTES_MAX};
use envoyfs_engine::store::{DataObject, Store};
use envoyfs_layout::{Body, Hlc, Oid, Slice};
use std::sync::atomic::Ordering;

fn freed_units(machine: &Machine) -> usize {
    machine.freed.values().map(std::collections::BTreeSet::len).sum()
}
