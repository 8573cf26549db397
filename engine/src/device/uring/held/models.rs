//! The real `held.rs` and tickets under random schedules: threads that wait for held writes while the device is dropped, also by a function that a ticket calls.
//! What stands for a ring and for the write thread remembers whether the device is gone.

use super::super::super::AlignedBuf;
use super::*;
use crate::shuttled::check;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, thread};

/// The write thread's queue and the device's end.
#[derive(Default)]
struct Model {
    queue: Mutex<(Vec<Job>, bool)>,
    changed: Condvar,
    /// The device is gone: nobody may write with a ring on it.
    is_gone: AtomicBool,
    /// Every other write cannot be made by the thread that waits.
    refuses: AtomicBool,
    /// The write thread has failed: it takes nothing.
    has_failed: bool,
}

struct Shared(Arc<Model>);

impl Hands for Shared {
    fn write(&self, jobs: Vec<Job>) -> Result<Vec<Done>, Vec<Job>> {
        if self.0.has_failed || self.0.refuses.fetch_xor(true, Ordering::SeqCst) {
            return Err(jobs);
        }
        assert!(!self.0.is_gone.load(Ordering::SeqCst), "a write begins on a device that is gone");
        thread::yield_now();
        assert!(!self.0.is_gone.load(Ordering::SeqCst), "the device went while a write was under way");
        Ok(jobs.into_iter().map(|job| (job.completion, Ok(()))).collect())
    }

    fn pass_on(&self, jobs: Vec<Job>) -> Vec<Job> {
        if self.0.has_failed {
            return jobs;
        }
        let mut queue = self.0.queue.lock();
        assert!(!queue.1, "the write thread has ended");
        queue.0.extend(jobs);
        self.0.changed.notify_all();
        Vec::new()
    }
}

/// As the device: the end of what is held, then that of the write thread.
struct Device {
    held: Arc<Held<Shared>>,
    model: Arc<Model>,
}

impl Device {
    fn new(model: Model) -> (Device, thread::JoinHandle<()>) {
        let model = Arc::new(model);
        let device = Device { held: Held::new(Shared(Arc::clone(&model))), model: Arc::clone(&model) };
        let write_thread = thread::spawn(move || {
            loop {
                let mut queue = model.queue.lock();
                while queue.0.is_empty() && !queue.1 {
                    model.changed.wait(&mut queue);
                }
                let jobs = std::mem::take(&mut queue.0);
                let ends = queue.1;
                drop(queue);
                jobs.into_iter().for_each(|job| job.completion.complete(Ok(())));
                if ends {
                    return;
                }
            }
        });
        (device, write_thread)
    }

    fn lazily(&self, block: u64) -> Ticket {
        self.held.submit(Write::whole(block * 512, AlignedBuf::zeroed(512)).lazy())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.held.end();
        self.model.is_gone.store(true, Ordering::SeqCst);
        self.model.queue.lock().1 = true;
        self.model.changed.notify_all();
    }
}

fn waiters_and_a_drop() {
    let (device, write_thread) = Device::new(Model::default());
    let device = Arc::new(device);
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                let tickets = [device.lazily(writer * 2), device.lazily(writer * 2 + 1)];
                if writer == 0 {
                    tickets[1].wait().unwrap();
                }
                // The one who leaves last drops the device.
                drop(device);
                tickets.iter().for_each(|ticket| ticket.wait().unwrap());
            })
        })
        .collect();
    let ticket = device.lazily(9);
    let waiter = {
        let ticket = ticket.clone();
        thread::spawn(move || ticket.wait().unwrap())
    };
    drop(device);
    waiter.join().unwrap();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    write_thread.join().unwrap();
    assert_eq!(ticket.outcome(), Some(Ok(())));
}

#[test]
fn whoever_waits_comes_back_and_nothing_is_written_here_after_the_end() {
    check(3000, waiters_and_a_drop);
}

fn a_function_drops_the_device(has_failed: bool) {
    let (device, write_thread) = Device::new(Model { has_failed, ..Model::default() });
    let device = Arc::new(device);
    let tickets = [device.lazily(0), device.lazily(1)];
    let [first, second] = tickets.clone();
    let other = Arc::clone(&device);
    first.on_done(Box::new(move |_| drop(other)));
    second.on_done(Box::new(move |_| drop(device)));
    let expected = if has_failed { Err(DeviceError::Closed) } else { Ok(()) };
    let waiters = tickets.map(|ticket| {
        let expected = expected.clone();
        thread::spawn(move || assert_eq!(ticket.wait(), expected))
    });
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    write_thread.join().unwrap();
}

#[test]
fn a_function_of_a_held_write_may_end_the_device() {
    check(1000, || a_function_drops_the_device(false));
    check(1000, || a_function_drops_the_device(true));
}
