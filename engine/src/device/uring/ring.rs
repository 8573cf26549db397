//! Making a ring: the best flags that the kernel has, the device's descriptor and the pool's arena registered.

use super::super::buffer::Arena;
use super::super::{BufferPool, DeviceError};
use super::open::{Opened, errno_of};
use super::patience::Patience;
use io_uring::{IoUring, Submitter, opcode, squeue, types};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The longest single request; longer ones continue like short transfers. A multiple of every block size.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// A ring on one device.
pub(super) struct Ring {
    pub(super) uring: IoUring,
    /// What is registered as buffer 0; kept for as long as the ring.
    arena: Option<Arc<Arena>>,
    file_is_registered: bool,
    /// Whether the kernel writes and reads several pieces of registered memory with one request (6.15).
    pieces_fixed: bool,
    opened: Arc<Opened>,
    patience: Patience,
}

const HINT: &str = "allow it with `sysctl kernel.io_uring_disabled=0` (2 forbids it for all, 1 for all but \
                    kernel.io_uring_group); in a container the seccomp profile may forbid it too";

impl Ring {
    pub(super) fn new(entries: u32, opened: &Arc<Opened>, pool: &BufferPool) -> Result<Ring, DeviceError> {
        let uring = build(entries).map_err(|error| match errno_of(&error) {
            errno @ (libc::EPERM | libc::EACCES | libc::ENOSYS) => DeviceError::UringUnavailable { errno, hint: HINT },
            errno @ libc::ENOMEM => {
                DeviceError::UringUnavailable { errno, hint: "raise the limit of locked memory (ulimit -l)" }
            }
            errno => DeviceError::UringUnavailable { errno, hint: "the kernel must be 5.15 or newer" },
        })?;
        let file_is_registered = uring.submitter().register_files(&[opened.io.as_raw_fd()]).is_ok();
        let arena = pool.arena().filter(|arena| register(&uring.submitter(), arena)).cloned();
        let mut probe = io_uring::Probe::new();
        let probed = uring.submitter().register_probe(&mut probe).is_ok();
        let supported = |code| probed && probe.is_supported(code);
        let pieces_fixed = supported(opcode::WritevFixed::CODE) && supported(opcode::ReadvFixed::CODE);
        Ok(Ring {
            uring,
            arena,
            file_is_registered,
            pieces_fixed,
            opened: Arc::clone(opened),
            patience: Patience::default(),
        })
    }

    /// It may have writes in the kernel for an unknown time: whoever opens the device next has to wait for them.
    pub(super) fn gave_up(&self) {
        self.opened.gave_up.store(true, Ordering::Release);
    }

    /// Submits what is in the ring and waits until `want` completions are there, or something goes wrong: first awake, as long as that has paid lately, then asleep.
    pub(super) fn enter(&mut self, want: usize) -> std::io::Result<()> {
        if want > 0 && self.patience.is_worth_it() {
            self.uring.submit()?;
            let uring = &mut self.uring;
            let arrived = self.patience.watch(|| {
                // Completions become visible when this thread enters the kernel for them, which the flag asks for.
                if uring.submission().taskrun() {
                    uring.submit()?;
                }
                Ok(uring.completion().len() >= want)
            })?;
            if arrived {
                return Ok(());
            }
        }
        self.uring.submit_and_wait(want).map(drop)
    }

    /// A read of `length` bytes to `start`, in this ring's terms.
    pub(super) fn read(&self, registered: bool, start: *mut u8, length: usize, offset: u64) -> squeue::Entry {
        let length = request_length(length);
        match (registered, self.file_is_registered) {
            (true, true) => opcode::ReadFixed::new(types::Fixed(0), start, length, 0).offset(offset).build(),
            (true, false) => opcode::ReadFixed::new(self.descriptor(), start, length, 0).offset(offset).build(),
            (false, true) => opcode::Read::new(types::Fixed(0), start, length).offset(offset).build(),
            (false, false) => opcode::Read::new(self.descriptor(), start, length).offset(offset).build(),
        }
    }

    /// A write of `length` bytes from `start`, in this ring's terms; durable at its completion if asked for.
    pub(super) fn write(&self, memory: (bool, *const u8), length: usize, offset: u64, durable: bool) -> squeue::Entry {
        let length = request_length(length);
        let flags = if durable { self.durable_flags() } else { 0 };
        macro_rules! write {
            ($file:expr) => {
                match memory {
                    (true, start) => {
                        opcode::WriteFixed::new($file, start, length, 0).offset(offset).rw_flags(flags).build()
                    }
                    (false, start) => opcode::Write::new($file, start, length).offset(offset).rw_flags(flags).build(),
                }
            };
        }
        if self.file_is_registered { write!(types::Fixed(0)) } else { write!(self.descriptor()) }
    }

    /// A write of several pieces of memory (all of it registered, or not) that become one stretch of the device.
    pub(super) fn write_pieces(
        &self,
        pieces: &[libc::iovec],
        registered: bool,
        offset: u64,
        durable: bool,
    ) -> squeue::Entry {
        let flags = if durable { self.durable_flags() } else { 0 };
        let count = u32::try_from(pieces.len()).unwrap_or(0);
        macro_rules! write {
            ($file:expr) => {
                if registered && self.pieces_fixed {
                    opcode::WritevFixed::new($file, pieces.as_ptr(), count, 0).offset(offset).rw_flags(flags).build()
                } else {
                    opcode::Writev::new($file, pieces.as_ptr(), count).offset(offset).rw_flags(flags).build()
                }
            };
        }
        if self.file_is_registered { write!(types::Fixed(0)) } else { write!(self.descriptor()) }
    }

    /// A read of one stretch of the device into several pieces of memory (all of it registered, or not).
    pub(super) fn read_pieces(&self, pieces: &[libc::iovec], registered: bool, offset: u64) -> squeue::Entry {
        let count = u32::try_from(pieces.len()).unwrap_or(0);
        macro_rules! read {
            ($file:expr) => {
                if registered && self.pieces_fixed {
                    opcode::ReadvFixed::new($file, pieces.as_ptr(), count, 0).offset(offset).build()
                } else {
                    opcode::Readv::new($file, pieces.as_ptr(), count).offset(offset).build()
                }
            };
        }
        if self.file_is_registered { read!(types::Fixed(0)) } else { read!(self.descriptor()) }
    }

    /// Whether `buffer` can be used with the "fixed" requests of this ring.
    pub(super) fn has_registered(&self, buffer: &super::AlignedBuf) -> bool {
        self.arena.as_ref().is_some_and(|arena| buffer.is_in(arena))
    }

    fn durable_flags(&self) -> i32 {
        #[cfg(test)]
        if self.opened.refuses_durable.load(std::sync::atomic::Ordering::Relaxed) {
            // No file system knows it.
            return 1 << 30;
        }
        libc::RWF_DSYNC
    }

    fn descriptor(&self) -> types::Fd {
        types::Fd(self.opened.io.as_raw_fd())
    }
}

fn request_length(length: usize) -> u32 {
    u32::try_from(length.min(REQUEST_BYTES_MAX)).unwrap_or(0)
}

/// Newest flags first. A kernel that does not know one answers EINVAL.
fn build(entries: u32) -> std::io::Result<IoUring> {
    let refused = |error: &std::io::Error| error.raw_os_error() == Some(libc::EINVAL);
    // The flag lets a submission without a wait see that completions are to be had.
    let mut best = IoUring::builder();
    best.dontfork().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match best.build(entries) {
        Err(error) if refused(&error) => {}
        other => return other,
    }
    match IoUring::builder().dontfork().setup_coop_taskrun().build(entries) {
        Err(error) if refused(&error) => IoUring::builder().dontfork().build(entries),
        other => other,
    }
}

/// A refusal (locked-memory limit) costs speed only.
fn register(submitter: &Submitter<'_>, arena: &Arena) -> bool {
    let (start, length) = arena.span();
    let span = libc::iovec { iov_base: start.cast(), iov_len: length };
    // SAFETY: the ring keeps an Arc of the arena, so the memory stays mapped as long as it is registered.
    let registered = unsafe { submitter.register_buffers(&[span]) };
    if let Err(error) = &registered {
        tracing::debug!(%error, "buffers are not registered; the limit of locked memory may be too low");
    }
    registered.is_ok()
}
