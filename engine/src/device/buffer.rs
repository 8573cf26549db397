//! Memory that direct IO accepts: aligned to 4096 bytes, in multiples of 512.
//!
//! A [`BufferPool`] cuts buffers from one arena, which the rings register with the kernel once, so that an IO
//! neither calls the allocator nor pins pages. When a class of the arena is used up (or the pool has none),
//! buffers come from the heap: slower, never refused.

use parking_lot::Mutex;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// Alignment of every buffer in memory.
pub const BUFFER_ALIGNMENT: usize = 4096;
/// Lengths are multiples of this.
pub const BUFFER_GRANULE: usize = 512;

/// An owned, initialised buffer for direct IO. It returns to its pool when dropped.
pub struct AlignedBuf {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
    origin: Origin,
}

enum Origin {
    Heap,
    Arena(Arc<Arena>, usize),
}

// SAFETY: an AlignedBuf owns its memory alone: a slot is in exactly one of {free list, one AlignedBuf}.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only gives `&[u8]`.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A zeroed buffer from the heap; `length` is rounded up to a multiple of 512, at least 512.
    #[must_use]
    pub fn zeroed(length: usize) -> AlignedBuf {
        let length = round_up(length);
        let layout = heap_layout(length);
        // SAFETY: the size of `layout` is at least 512, so not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, length, capacity: length, origin: Origin::Heap }
    }

    /// Bytes in use: what a read fills and `as_slice` shows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Always false; a buffer has at least 512 bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The largest length it can be set to.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length, rounded up to a multiple of 512 and limited by the capacity. Bytes that come into view
    /// keep whatever they held.
    pub fn set_len(&mut self, length: usize) {
        self.length = round_up(length).min(self.capacity);
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `length <= capacity` bytes from `start` are owned by self and initialised (zeroed when mapped).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Where the memory starts, for a ring that writes into it.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Whether the memory is part of `arena`, which a ring may have registered.
    pub(super) fn is_in(&self, arena: &Arc<Arena>) -> bool {
        match &self.origin {
            Origin::Heap => false,
            Origin::Arena(own, _) => Arc::ptr_eq(own, arena),
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        match &self.origin {
            // SAFETY: allocated in `zeroed` with exactly this layout; `capacity` never changes.
            Origin::Heap => unsafe { dealloc(self.start.as_ptr(), heap_layout(self.capacity)) },
            Origin::Arena(arena, class) => arena.give_back(*class, self.start),
        }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuf").field("length", &self.length).field("capacity", &self.capacity).finish()
    }
}

fn round_up(length: usize) -> usize {
    length.max(1).div_ceil(BUFFER_GRANULE) * BUFFER_GRANULE
}

fn heap_layout(length: usize) -> Layout {
    match Layout::from_size_align(length, BUFFER_ALIGNMENT) {
        Ok(layout) => layout,
        // Only a length near isize::MAX gets here; no allocator could serve it either.
        Err(_) => handle_alloc_error(Layout::new::<[u8; BUFFER_ALIGNMENT]>()),
    }
}

/// How many buffers of one size an arena holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferClass {
    /// Size of each, a multiple of 4096.
    pub bytes: usize,
    /// How many.
    pub count: usize,
}

/// Hands out [`AlignedBuf`]s. Clones share the same memory.
#[derive(Clone, Debug)]
pub struct BufferPool {
    arena: Option<Arc<Arena>>,
}

impl BufferPool {
    /// The classes of [`BufferPool::default`]: 32 MiB.
    pub const DEFAULT_CLASSES: [BufferClass; 3] = [
        BufferClass { bytes: 4 << 10, count: 1024 },
        BufferClass { bytes: 64 << 10, count: 128 },
        BufferClass { bytes: 1 << 20, count: 20 },
    ];

    /// A pool with an arena of these classes. If the memory cannot be mapped, the pool works from the heap.
    #[must_use]
    pub fn new(classes: &[BufferClass]) -> BufferPool {
        BufferPool { arena: Arena::map(classes).map(Arc::new) }
    }

    /// The pool without an arena: every buffer comes from the heap.
    pub fn heap() -> &'static BufferPool {
        static HEAP: OnceLock<BufferPool> = OnceLock::new();
        HEAP.get_or_init(|| BufferPool { arena: None })
    }

    /// A buffer of `length` bytes (rounded up to a multiple of 512). Its contents are initialised but old: for
    /// reads, and for writers that fill all of it.
    #[must_use]
    pub fn take(&self, length: usize) -> AlignedBuf {
        let length = round_up(length);
        if let Some(arena) = &self.arena
            && let Some((class, start, capacity)) = arena.take(length)
        {
            return AlignedBuf { start, length, capacity, origin: Origin::Arena(Arc::clone(arena), class) };
        }
        AlignedBuf::zeroed(length)
    }

    /// As [`BufferPool::take`], zeroed.
    #[must_use]
    pub fn take_zeroed(&self, length: usize) -> AlignedBuf {
        let mut buffer = self.take(length);
        if matches!(buffer.origin, Origin::Arena(..)) {
            buffer.as_mut_slice().fill(0);
        }
        buffer
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, |arena| arena.bytes)
    }

    /// Buffers of the arena that somebody holds.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.arena.as_ref().map_or(0, |arena| arena.in_use())
    }

    pub(super) fn arena(&self) -> Option<&Arc<Arena>> {
        self.arena.as_ref()
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        BufferPool::new(&Self::DEFAULT_CLASSES)
    }
}

/// One anonymous mapping, cut into slots by size class.
pub(super) struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    classes: Vec<FreeList>,
}

struct FreeList {
    bytes: usize,
    count: usize,
    /// Offsets in the arena of the free slots. The one given back last is taken first: a cache may still hold it, and what was never needed is never touched.
    free: Mutex<Vec<usize>>,
}

// SAFETY: `base` is only read after construction; slots are handed out through locked lists, one owner each.
unsafe impl Send for Arena {}
// SAFETY: as for Send.
unsafe impl Sync for Arena {}

impl Arena {
    fn map(classes: &[BufferClass]) -> Option<Arena> {
        let mut classes: Vec<BufferClass> = classes.iter().copied().filter(|class| class.count > 0).collect();
        classes.sort_by_key(|class| class.bytes);
        let mut bytes = 0_usize;
        let mut lists = Vec::with_capacity(classes.len());
        for class in classes {
            let slot = class.bytes.max(1).checked_next_multiple_of(BUFFER_ALIGNMENT)?;
            let mut free = Vec::with_capacity(class.count);
            for _ in 0..class.count {
                free.push(bytes);
                bytes = bytes.checked_add(slot)?;
            }
            free.reverse();
            lists.push(FreeList { bytes: slot, count: class.count, free: Mutex::new(free) });
        }
        if bytes == 0 {
            return None;
        }
        // SAFETY: a new private anonymous mapping; no existing memory is touched.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        // Miri does not know it.
        #[cfg(not(miri))]
        // SAFETY: the range was mapped just above. Huge pages make registering cheap; a refusal changes nothing.
        unsafe {
            libc::madvise(base, bytes, libc::MADV_HUGEPAGE)
        };
        Some(Arena { base: NonNull::new(base.cast())?, bytes, classes: lists })
    }

    /// What a ring registers: start and length.
    pub(super) fn span(&self) -> (*mut u8, usize) {
        (self.base.as_ptr(), self.bytes)
    }

    fn take(&self, length: usize) -> Option<(usize, NonNull<u8>, usize)> {
        let (class, list) = self.classes.iter().enumerate().find(|(_, list)| list.bytes >= length)?;
        let offset = list.free.lock().pop()?;
        // SAFETY: every offset in a free list was made in `map` with `offset + slot <= bytes`.
        let start = unsafe { self.base.add(offset) };
        Some((class, start, list.bytes))
    }

    fn in_use(&self) -> usize {
        self.classes.iter().map(|list| list.count - list.free.lock().len()).sum()
    }

    fn give_back(&self, class: usize, start: NonNull<u8>) {
        let offset = start.as_ptr().addr().wrapping_sub(self.base.as_ptr().addr());
        if let Some(list) = self.classes.get(class) {
            let mut free = list.free.lock();
            free.push(offset);
            assert!(free.len() <= list.count, "a slot was returned twice");
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length; every AlignedBuf in it holds an Arc, so none is left. A ring
        // that still has the pages registered has pinned them itself.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes).field("classes", &self.classes.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_rounded() {
        let mut buffer = AlignedBuf::zeroed(513);
        assert_eq!(buffer.len(), 1024);
        assert_eq!(buffer.as_mut_ptr().addr() % BUFFER_ALIGNMENT, 0);
        assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
        buffer.set_len(1 << 30);
        assert_eq!(buffer.len(), 1024);
        assert_eq!(AlignedBuf::zeroed(0).len(), 512);
    }

    #[test]
    fn a_used_up_class_falls_back_to_the_heap_and_slots_return() {
        let pool = BufferPool::new(&[BufferClass { bytes: 4096, count: 2 }]);
        let arena = Arc::clone(pool.arena().unwrap());
        let (mut first, second, third) = (pool.take(4096), pool.take(512), pool.take(4096));
        assert!(first.is_in(&arena) && second.is_in(&arena) && !third.is_in(&arena));
        first.as_mut_slice().fill(7);
        drop(first);
        let again = pool.take_zeroed(4096);
        assert!(again.is_in(&arena));
        assert!(again.as_slice().iter().all(|byte| *byte == 0));
        assert_eq!(again.as_slice().as_ptr().addr() % BUFFER_ALIGNMENT, 0);
        assert!(!pool.take(8192).is_in(&arena));
    }

    #[test]
    fn slots_never_overlap_between_threads() {
        let pool = BufferPool::new(&[BufferClass { bytes: 4096, count: 8 }]);
        std::thread::scope(|scope| {
            for mark in 0..8_u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for _ in 0..if cfg!(miri) { 10 } else { 2000 } {
                        let mut buffer = pool.take(4096);
                        buffer.as_mut_slice().fill(mark);
                        // As a whole: byte by byte is slow under Miri.
                        assert!(*buffer.as_slice() == [mark; 4096]);
                    }
                });
            }
        });
    }
}
