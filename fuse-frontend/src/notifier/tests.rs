use super::*;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<String>>>,
    busy: bool,
}

impl KernelCaches for Recorder {
    fn forget_entry(&self, parent: InodeId, name: &[u8]) -> io::Result<()> {
        self.seen.lock().push(format!("entry {} {}", parent.0, String::from_utf8_lossy(name)));
        Ok(())
    }
    fn forget_inode(&self, inode: InodeId) -> io::Result<()> {
        self.seen.lock().push(format!("inode {}", inode.0));
        Ok(())
    }
    fn deleted(&self, _parent: InodeId, child: InodeId, _name: &[u8]) -> io::Result<()> {
        self.seen.lock().push(format!("deleted {}", child.0));
        if self.busy { Err(io::Error::from_raw_os_error(libc::ENOTEMPTY)) } else { Ok(()) }
    }
}

#[test]
fn messages_keep_their_order_and_a_barrier_comes_after_what_was_before_it() {
    let (notifier, unconnected) = Notifier::new();
    let recorder = Recorder::default();
    notifier.entry(InodeId(1), b"a");
    notifier.inode(InodeId(2));
    let seen = Arc::clone(&recorder.seen);
    notifier.after(Box::new(move || seen.lock().push("after".into())));
    notifier.deleted(InodeId(1), InodeId(3), b"b");
    drop(unconnected.start(&notifier, recorder.clone()).unwrap());
    assert_eq!(*recorder.seen.lock(), ["entry 1 a", "inode 2", "after", "deleted 3"]);
}

#[test]
fn a_deletion_that_the_kernel_refuses_forgets_the_name_instead() {
    let (notifier, unconnected) = Notifier::new();
    let recorder = Recorder { busy: true, ..Recorder::default() };
    notifier.deleted(InodeId(1), InodeId(3), b"b");
    drop(unconnected.start(&notifier, recorder.clone()).unwrap());
    assert_eq!(*recorder.seen.lock(), ["deleted 3", "entry 1 b"]);
}

#[test]
fn enqueuing_after_the_end_does_nothing_and_drops_barriers() {
    let (notifier, unconnected) = Notifier::new();
    drop(unconnected.start(&notifier, Recorder::default()).unwrap());
    let (sender, receiver) = unbounded::<()>();
    notifier.after(Box::new(move || sender.send(()).unwrap()));
    drop(notifier);
    assert!(receiver.recv().is_err());
}
