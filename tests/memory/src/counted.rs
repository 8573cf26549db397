//! An allocator that counts what is allocated in some calls only, wherever it is freed later.
//!
//! Each allocation has a word before it that says how many bytes of it were counted. A thread counts or not ([`engine`], [`aside`]); threads that the engine starts count.

#![expect(unsafe_code, reason = "an allocator; decision 0015")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// Counts, and asks the system.
pub struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(true) };
}

/// Bytes before the memory that is handed out: a word, and what keeps the alignment.
const fn front(align: usize) -> usize {
    if align < 16 { 16 } else { align }
}

fn add(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

// SAFETY: every pointer handed out lies `front(align)` bytes into memory of `System` of that much more, and is given back with the layout made the same way from the caller's. The
// default `realloc` goes through both.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let front = front(layout.align());
        let Some(size) = layout.size().checked_add(front) else { return std::ptr::null_mut() };
        let Ok(whole) = Layout::from_size_align(size, layout.align().max(16)) else { return std::ptr::null_mut() };
        // SAFETY: its size is at least 16.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        // A thread that is ending has no flag any more: what it does then is nobody's.
        let counted = if COUNTS.try_with(Cell::get).unwrap_or(false) { layout.size() } else { 0 };
        // SAFETY: `front` is at least 16 and the start aligned to 16, so a word fits before the memory handed out, and `front` is within the allocation.
        unsafe {
            start.cast::<usize>().write(counted);
            add(isize::try_from(counted).unwrap_or(0));
            start.add(front)
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let front = front(layout.align());
        // SAFETY: made in `alloc` with the same layout (caller), so that it starts `front` bytes before, with the word there, and has this size and alignment.
        unsafe {
            let start = memory.sub(front);
            add(-isize::try_from(start.cast::<usize>().read()).unwrap_or(0));
            System.dealloc(start, Layout::from_size_align_unchecked(layout.size() + front, layout.align().max(16)));
        }
    }
}

fn with<T>(counts: bool, act: impl FnOnce() -> T) -> T {
    let before = COUNTS.replace(counts);
    let result = act();
    COUNTS.set(before);
    result
}

/// A call of the engine: counts.
pub fn engine<T>(call: impl FnOnce() -> T) -> T {
    with(true, call)
}

/// What is not the engine's: a client's own state, a simulated device.
pub fn aside<T>(act: impl FnOnce() -> T) -> T {
    with(false, act)
}

/// Bytes counted that live.
#[must_use]
pub fn live() -> u64 {
    u64::try_from(LIVE.load(Ordering::Relaxed)).unwrap_or(0)
}

/// The most since the last call of [`forget_peak`].
#[must_use]
pub fn peak() -> u64 {
    u64::try_from(PEAK.load(Ordering::Relaxed)).unwrap_or(0)
}

/// From now on.
pub fn forget_peak() {
    PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
}
