//! Control commands: checked, carried out one after the other on a thread of their own, and answered when the kernel's
//! caches agree.
//!
//! The kernel checks nothing for an ioctl, so permissions are checked here, with the caller's supplementary groups from
//! /proc (the caller waits in the ioctl meanwhile, so its process id is its own).
//!
//! If power fails here: a command that was not answered happened as a whole or not at all (one record each).

mod access;
mod upkeep;

use crate::control::{self, Delete, Fork, Pass, Status, TextPage, pass_kind, status_flags, text_kind};
use crate::dispatch::context;
use crate::errno::Errno;
use crate::front::Caller;
use crate::notifier::Notifier;
use crate::token::IoctlToken;
use access::{Access, may};
use crossbeam::channel::{Receiver, Sender, unbounded};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{Error, FileType, InodeId, Totals};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use upkeep::Upkeep;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

/// What STATUS tells about the daemon.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Process id of the daemon.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// User who mounted; may prepare an unmount, like root.
    pub owner: u32,
    /// Path of the device or image.
    pub store: Vec<u8>,
    /// Mounted read-only.
    pub read_only: bool,
}

impl Identity {
    /// The calling process.
    #[must_use]
    pub fn of_this_process(store: Vec<u8>, read_only: bool) -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self {
            pid: pid.unsigned_abs(),
            start_ticks: start_ticks(pid.unsigned_abs()).unwrap_or(0),
            owner: rustix::process::geteuid().as_raw(),
            store,
            read_only,
        }
    }
}

/// When a process started, in clock ticks since boot: tells processes with the same id apart.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything, so count from its end; the 22nd field is wanted.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

enum Command {
    Fork { source: InodeId, name: Vec<u8> },
    Delete { name: Vec<u8> },
    Sync,
    Status,
    Text { kind: u16, text: u64, offset: usize },
    Pass(Pass),
    UnmountPrepare,
}

struct Job {
    caller: Caller,
    directory: InodeId,
    command: Command,
    token: IoctlToken,
}

/// The queue of control commands and its thread.
pub struct Commands {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Commands {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(namespace: Arc<Namespace>, notifier: Notifier, identity: Identity) -> io::Result<Self> {
        let (sender, receiver) = unbounded();
        let upkeep = Mutex::new(Upkeep::new(Arc::clone(&namespace)));
        let worker = Worker { namespace, notifier, identity, text: Mutex::default(), upkeep };
        let thread =
            std::thread::Builder::new().name("envoyfs-control".to_owned()).spawn(move || worker.run(&receiver))?;
        Ok(Self { queue: Some(sender), thread: Some(thread) })
    }

    /// Takes a command; never blocks.
    pub fn run(&self, caller: Caller, directory: InodeId, command: u32, input: &[u8], token: IoctlToken) {
        match parse(command, input) {
            Ok(command) => {
                if let Some(queue) = &self.queue {
                    drop(queue.send(Job { caller, directory, command, token }));
                }
            }
            Err(error) => token.answer(Err(error)),
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the control commands panicked");
        }
    }
}

fn parse(command: u32, input: &[u8]) -> Result<Command, Errno> {
    match command {
        control::FORK => {
            let request = Fork::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
            let name = request.name().ok_or(Errno::EINVAL)?.to_vec();
            Ok(Command::Fork { source: InodeId(request.source.get()), name })
        }
        control::DELETE => {
            let request = Delete::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
            Ok(Command::Delete { name: request.name().ok_or(Errno::EINVAL)?.to_vec() })
        }
        control::SYNC => Ok(Command::Sync),
        control::STATUS => Ok(Command::Status),
        control::TEXT => {
            let request = TextPage::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
            let offset = usize::try_from(request.offset.get()).map_err(|_| Errno::EINVAL)?;
            Ok(Command::Text { kind: request.kind.get(), text: request.text.get(), offset })
        }
        control::PASS => Ok(Command::Pass(Pass::read_from_bytes(input).map_err(|_| Errno::EINVAL)?)),
        control::UNMOUNT_PREPARE => Ok(Command::UnmountPrepare),
        _ => Err(Errno::ENOTTY),
    }
}

struct Worker {
    namespace: Arc<Namespace>,
    notifier: Notifier,
    identity: Identity,
    /// The text that somebody is reading, and its number.
    text: Mutex<(u64, String)>,
    upkeep: Mutex<Upkeep>,
}

impl Worker {
    fn run(&self, queue: &Receiver<Job>) {
        for Job { caller, directory, command, token } in queue {
            match command {
                Command::Fork { source, name } => {
                    let result = self.fork(caller, directory, source, &name);
                    self.answer_coherently(token, result);
                }
                Command::Delete { name } => {
                    let result = self.delete(caller, directory, &name);
                    self.answer_coherently(token, result);
                }
                Command::Sync => self.sync(token),
                Command::Status => match self.status(caller, directory) {
                    Ok(status) => token.answer(Ok(status.as_bytes())),
                    Err(error) => token.answer(Err(error)),
                },
                Command::Text { kind, text, offset } => match self.text(kind, text, offset) {
                    Ok(page) => token.answer(Ok(page.as_bytes())),
                    Err(error) => token.answer(Err(error)),
                },
                Command::Pass(request) => match self.pass(caller, &request) {
                    Ok(pass) => token.answer(Ok(pass.as_bytes())),
                    Err(error) => token.answer(Err(error)),
                },
                Command::UnmountPrepare => {
                    let result = self.prepare(caller);
                    token.answer(result.map(|()| &[][..]));
                }
            }
        }
    }

    /// The answer waits until the kernel has been told what changed.
    fn answer_coherently(&self, token: IoctlToken, result: Result<(), Errno>) {
        self.notifier.after(Box::new(move || token.answer(result.map(|()| &[][..]))));
    }

    fn fork(&self, caller: Caller, directory: InodeId, source: InodeId, name: &[u8]) -> Result<(), Errno> {
        let cx = context(caller);
        let origin = self.namespace.getattr(&cx, source)?;
        if caller.uid != 0 && caller.uid != origin.uid {
            return Err(Errno::EPERM);
        }
        self.check_may_change(caller, directory)?;
        if origin.file_type == FileType::Regular {
            // Pages that a shared mapping has changed are written back by the invalidation, so the clone has them.
            self.notifier.inode(source);
            self.wait_for_notifier();
        }
        let clone = self.namespace.fork(&cx, source, directory, name)?;
        // Nobody was told the clone's id yet.
        self.namespace.forget(clone.id, 1);
        self.notifier.entry(directory, name);
        Ok(())
    }

    fn delete(&self, caller: Caller, directory: InodeId, name: &[u8]) -> Result<(), Errno> {
        let cx = context(caller);
        self.check_may_change(caller, directory)?;
        let victim = self.namespace.lookup(&cx, directory, name)?;
        let checked = if victim.file_type != FileType::Directory {
            Err(Errno::ENOTDIR)
        } else if caller.uid != 0 && caller.uid != victim.uid {
            // Stronger than rmdir, which would have failed for what is not empty. It covers the sticky bit, too.
            Err(Errno::EPERM)
        } else {
            self.namespace.delete_tree_of(&cx, directory, name, victim.id).map_err(Errno::from)
        };
        self.namespace.forget(victim.id, 1);
        if checked.is_ok() {
            self.notifier.deleted(directory, victim.id, name);
        }
        checked
    }

    fn sync(&self, token: IoctlToken) {
        let end = self.namespace.sync_point();
        self.namespace.on_durable(
            end,
            Box::new(move |result| {
                token.answer(result.map(|()| &[][..]).map_err(|error| Error::from(error).into()));
            }),
        );
    }

    fn prepare(&self, caller: Caller) -> Result<(), Errno> {
        if caller.uid != 0 && caller.uid != self.identity.owner {
            return Err(Errno::EPERM);
        }
        self.namespace.sync()?;
        if !self.identity.read_only {
            self.namespace.checkpoint()?;
        }
        Ok(())
    }

    fn status(&self, caller: Caller, directory: InodeId) -> Result<Status, Errno> {
        let totals = match self.namespace.totals(&context(caller), directory) {
            // A list of snapshots is no part of the tree.
            Err(Error::NotDirectory) => Totals::default(),
            totals => totals?,
        };
        let space = self.namespace.space();
        let status = self.namespace.status();
        let usage = status.usage;
        let mut answer = Status::new_zeroed();
        answer.magic.set(control::STATUS_MAGIC);
        answer.pid.set(self.identity.pid);
        answer.start_ticks.set(self.identity.start_ticks);
        let mut flags = if self.identity.read_only { status_flags::READ_ONLY } else { 0 };
        if let Some(why) = &status.failure {
            flags |= status_flags::POISONED;
            (answer.trouble_bytes, answer.trouble) = control::pack(why.as_bytes());
        }
        answer.flags.set(flags);
        answer.capacity.set(usage.capacity);
        answer.live.set(usage.live);
        answer.dead.set(usage.dead);
        answer.free.set(usage.free);
        answer.available.set(usage.available);
        answer.drop_queue.set(usage.drop_queue);
        answer.shared_objects.set(usage.shared_objects);
        answer.log_bytes.set(usage.log_bytes);
        answer.ring_bytes.set(usage.ring_bytes);
        answer.checkpoint.set(usage.checkpoint);
        answer.appended.set(usage.appended.0);
        answer.durable.set(usage.durable.0);
        answer.node_cache.set(status.node_cache_bytes);
        answer.node_cache_max.set(status.node_cache_bytes_max);
        answer.memory = status.memory.unwrap_or_default().parts().map(|(_, bytes)| bytes.into());
        answer.files.set(space.files);
        answer.tree_bytes.set(totals.bytes);
        answer.tree_files.set(totals.files);
        answer.tree_directories.set(totals.directories);
        answer.tree_links.set(totals.links);
        (answer.store_bytes, answer.store) = control::pack(&self.identity.store);
        Ok(answer)
    }

    fn pass(&self, caller: Caller, request: &Pass) -> Result<Pass, Errno> {
        if caller.uid != 0 && caller.uid != self.identity.owner {
            return Err(Errno::EPERM);
        }
        self.upkeep.lock().handle(request)
    }

    fn new_text(&self, kind: u16) -> Result<String, Errno> {
        match kind {
            text_kind::METRICS => Ok(self.namespace.metrics()),
            text_kind::HISTORY => Ok(upkeep::history(&self.namespace)?),
            text_kind::SCRUB => self.upkeep.lock().report(pass_kind::SCRUB),
            text_kind::CHECK => self.upkeep.lock().report(pass_kind::CHECK),
            _ => Err(Errno::EINVAL),
        }
    }

    fn text(&self, kind: u16, number: u64, offset: usize) -> Result<Box<TextPage>, Errno> {
        let mut kept = self.text.lock();
        if number == 0 {
            *kept = (kept.0 + 1, self.new_text(kind)?);
        } else if number != kept.0 {
            return Err(Errno::EAGAIN);
        }
        let mut page = Box::new(TextPage::new_zeroed());
        page.kind.set(kind);
        let rest = kept.1.as_bytes().get(offset..).ok_or(Errno::EINVAL)?;
        page.text.set(kept.0);
        page.total_bytes.set(u32::try_from(kept.1.len()).unwrap_or(u32::MAX));
        (page.part_bytes, page.part) = control::pack(rest);
        Ok(page)
    }

    /// Adding and removing names needs write and search permission, as the kernel would check it.
    fn check_may_change(&self, caller: Caller, directory: InodeId) -> Result<(), Errno> {
        let attributes = self.namespace.getattr(&context(caller), directory)?;
        if attributes.file_type != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if may(caller, &attributes, Access::WRITE_AND_SEARCH) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Only for this thread: it serves no request that the notifier could wait for.
    fn wait_for_notifier(&self) {
        let (sender, receiver) = crossbeam::channel::bounded::<()>(1);
        self.notifier.after(Box::new(move || drop(sender)));
        // Ends with an error when the sender is dropped, which is the signal.
        let _ = receiver.recv();
    }
}
