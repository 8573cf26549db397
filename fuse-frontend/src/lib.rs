//! The kernel's FUSE protocol over the namespace.
//!
//! A request comes in through a [`transport`], becomes plain values and a [`token`] ([`front`]), is carried out by
//! [`dispatch`], and the token is answered, at once or when something is durable. [`notifier`] tells the kernel what its
//! caches must forget. [`control`] holds the commands beyond POSIX, [`commands`] carries them out. [`service`] puts it
//! together on a [`mount_point`]. Error numbers exist in [`errno`] only. Decision 0005 says why.

pub mod commands;
pub mod control;
pub mod dispatch;
pub mod errno;
pub mod front;
pub mod mount_point;
pub mod notifier;
pub mod pool;
mod readahead;
pub mod service;
pub mod token;
pub mod transport;
