//! Tells the kernel what its caches must forget: one thread with a queue.
//!
//! A notification runs in the kernel on the thread that sends it, and takes locks that a client may hold while its
//! request waits for us. Therefore this thread serves no request, holds no lock of ours, and nobody who serves requests
//! waits for it: enqueue, answer, and the notification follows. Only control commands wait, by [`Notifier::after`]: they
//! hold no lock in the kernel.
//!
//! If power fails here: nothing, the kernel's caches are gone too.

use crate::errno::is_unmounted;
use crossbeam::channel::{Receiver, Sender, unbounded};
use envoyfs_namespace::api::InodeId;
use std::io;
use std::thread::JoinHandle;

/// What a transport can tell the kernel. Calls may block as long as a client's request lasts.
pub trait KernelCaches: Send + 'static {
    /// Forget what this name leads to (also that it leads nowhere); the directory's listing and attributes too.
    ///
    /// # Errors
    /// The kernel refused. That the name was not cached is no error.
    fn forget_entry(&self, parent: InodeId, name: &[u8]) -> io::Result<()>;
    /// Forget pages and attributes; writes dirty pages back first.
    ///
    /// # Errors
    /// The kernel refused. That the inode was not cached is no error.
    fn forget_inode(&self, inode: InodeId) -> io::Result<()>;
    /// The name was removed.
    ///
    /// # Errors
    /// The kernel refused: the directory has cached children, or is busy.
    fn deleted(&self, parent: InodeId, child: InodeId, name: &[u8]) -> io::Result<()>;
}

enum Message {
    Entry { parent: InodeId, name: Vec<u8> },
    Inode { inode: InodeId },
    Deleted { parent: InodeId, child: InodeId, name: Vec<u8> },
    After(Box<dyn FnOnce() + Send>),
    Stop,
}

/// The queue's entrance. Never blocks. Cloning shares the queue.
#[derive(Clone)]
pub struct Notifier {
    queue: Sender<Message>,
}

/// The other end of the queue, before there is a kernel to talk to.
pub struct Unconnected {
    queue: Receiver<Message>,
}

/// The running thread.
pub struct NotifierThread {
    queue: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Notifier {
    /// A queue. What is put into it waits until [`Unconnected::start`].
    #[must_use]
    pub fn new() -> (Self, Unconnected) {
        let (sender, receiver) = unbounded();
        (Self { queue: sender }, Unconnected { queue: receiver })
    }

    /// Runs `done` on the notifier's thread after everything enqueued so far was sent. It must not block.
    pub fn after(&self, done: Box<dyn FnOnce() + Send>) {
        self.send(Message::After(done));
    }

    /// The kernel must forget a name.
    pub fn entry(&self, parent: InodeId, name: &[u8]) {
        self.send(Message::Entry { parent, name: name.to_vec() });
    }

    /// The kernel must forget the data and attributes of an inode.
    pub fn inode(&self, inode: InodeId) {
        self.send(Message::Inode { inode });
    }

    /// A name was removed underneath the kernel.
    pub fn deleted(&self, parent: InodeId, child: InodeId, name: &[u8]) {
        self.send(Message::Deleted { parent, child, name: name.to_vec() });
    }

    fn send(&self, message: Message) {
        // The thread has ended: the mount is gone, and its caches with it. A dropped `After` answers its token by EIO.
        drop(self.queue.send(message));
    }
}

impl envoyfs_namespace::Observer for Notifier {
    fn entry(&self, parent: InodeId, name: &[u8]) {
        Self::entry(self, parent, name);
    }

    fn inode(&self, id: InodeId) {
        Self::inode(self, id);
    }

    fn deleted(&self, parent: InodeId, child: InodeId, name: &[u8]) {
        Self::deleted(self, parent, child, name);
    }
}

impl Unconnected {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(self, notifier: &Notifier, caches: impl KernelCaches) -> io::Result<NotifierThread> {
        let thread =
            std::thread::Builder::new().name("envoyfs-notify".to_owned()).spawn(move || run(&self.queue, &caches))?;
        Ok(NotifierThread { queue: notifier.queue.clone(), thread: Some(thread) })
    }
}

impl Drop for NotifierThread {
    fn drop(&mut self) {
        drop(self.queue.send(Message::Stop));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the notifier thread panicked");
        }
    }
}

fn run(queue: &Receiver<Message>, caches: &impl KernelCaches) {
    for message in queue {
        match message {
            Message::Entry { parent, name } => report("entry", caches.forget_entry(parent, &name)),
            Message::Inode { inode } => report("inode", caches.forget_inode(inode)),
            Message::Deleted { parent, child, name } => {
                // Refused while children are cached or the name is busy: then the name is forgotten, without the event
                // for watchers.
                if caches.deleted(parent, child, &name).is_err() {
                    report("entry", caches.forget_entry(parent, &name));
                }
            }
            Message::After(done) => done(),
            Message::Stop => return,
        }
    }
}

fn report(what: &'static str, result: io::Result<()>) {
    if let Err(error) = result
        && !is_unmounted(&error)
    {
        tracing::warn!(what, %error, "the kernel refused a notification");
    }
}

#[cfg(test)]
mod tests;
