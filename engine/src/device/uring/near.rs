//! Stretches that lie close together on the device and are read by one request: an object whose end lies in the next container, with the table, footer and header between its pieces.
//! A second request costs a device about a tenth of what one of 1 MiB costs; a few KiB that nobody wants, nothing that could be measured.
//!
//! What fails together is read again one by one (`read_queue.rs`): it may be what is between that cannot be read.

use super::super::reads::Stretch;
use super::super::widen;
use super::joined::JOINED_BYTES_MAX;

/// Most bytes between two stretches of a request.
pub(super) const GAP_BYTES_MAX: usize = 32 << 10;
/// Most stretches of a request.
const STRETCHES_MAX: usize = 16;

/// Two stretches or more, in the order of the device.
pub(super) struct Gather {
    pieces: Vec<Piece>,
    stretches: usize,
    bytes: usize,
    /// Read by the kernel when the request is submitted; kept until it has completed all the same.
    vectors: Vec<libc::iovec>,
}

#[derive(Clone, Copy)]
struct Piece {
    /// In the caller's buffer; `None`: nobody wants it.
    at: Option<usize>,
    bytes: usize,
}

impl Gather {
    /// The first of these stretches, as many as lie close to each other; `None` if that is only one.
    pub(super) fn of(stretches: &[Stretch]) -> Option<Gather> {
        let (first, others) = stretches.split_first()?;
        let near = |before: &Stretch, next: &Stretch| {
            let gap = usize::try_from(next.offset.checked_sub(before.offset + widen(before.bytes))?).ok()?;
            // Not more for nothing than for something.
            (gap <= GAP_BYTES_MAX.min(before.bytes.max(next.bytes))).then_some(gap)
        };
        let mut gather = Gather { pieces: Vec::new(), stretches: 1, bytes: first.bytes, vectors: Vec::new() };
        let mut before = first;
        for next in others.iter().take(STRETCHES_MAX - 1) {
            let Some(gap) = near(before, next).filter(|gap| gather.bytes + gap + next.bytes <= JOINED_BYTES_MAX) else {
                break;
            };
            if gather.pieces.is_empty() {
                gather.pieces.push(Piece { at: Some(first.at), bytes: first.bytes });
            }
            if gap > 0 {
                gather.pieces.push(Piece { at: None, bytes: gap });
            }
            gather.pieces.push(Piece { at: Some(next.at), bytes: next.bytes });
            gather.stretches += 1;
            gather.bytes += gap + next.bytes;
            before = next;
        }
        (gather.stretches > 1).then_some(gather)
    }

    /// How many it takes.
    pub(super) fn stretches(&self) -> usize {
        self.stretches
    }

    /// From the start of the first to the end of the last.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// They, if the first begins at `offset`.
    pub(super) fn apart(&self, offset: u64) -> Vec<Stretch> {
        let mut offset = offset;
        let mut stretches = Vec::with_capacity(self.stretches);
        for Piece { at, bytes } in self.pieces.iter().copied() {
            stretches.extend(at.map(|at| Stretch { offset, at, bytes }));
            offset += widen(bytes);
        }
        stretches
    }

    /// The memory for what is behind the first `done` bytes.
    ///
    /// # Safety
    /// The stretches lie inside of `buffer`, and `between` has room for [`GAP_BYTES_MAX`].
    pub(super) unsafe fn vectors(&mut self, done: usize, buffer: *mut u8, between: *mut u8) -> &[libc::iovec] {
        self.vectors.clear();
        let mut skip = done;
        for Piece { at, bytes } in self.pieces.iter().copied() {
            let skipped = skip.min(bytes);
            skip -= skipped;
            if skipped == bytes {
                continue;
            }
            // SAFETY: inside of the one or the other (caller), since `skipped < bytes`.
            let start = unsafe { at.map_or(between, |at| buffer.add(at)).add(skipped) };
            self.vectors.push(libc::iovec { iov_base: start.cast(), iov_len: bytes - skipped });
        }
        &self.vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn stretch(offset_kib: usize, at_kib: usize, kib: usize) -> Stretch {
        Stretch { offset: widen(offset_kib * KIB), at: at_kib * KIB, bytes: kib * KIB }
    }

    #[test]
    fn only_what_lies_close_together_is_read_by_one_request() {
        let apart = |stretches: &[Stretch]| Gather::of(stretches).is_none();
        assert!(apart(&[]) && apart(&[stretch(0, 0, 64)]));
        assert!(apart(&[stretch(0, 0, 64), stretch(100, 64, 64)]), "36 KiB between them");
        assert!(apart(&[stretch(64, 0, 64), stretch(0, 64, 64)]), "in the wrong order");
        assert!(apart(&[stretch(0, 0, 64), stretch(60, 64, 64)]), "they overlap");
        assert!(apart(&[stretch(0, 0, 4), stretch(12, 4, 4)]), "more for nothing than for something");
        assert!(apart(&[stretch(0, 0, 1024), stretch(1024, 1024, 257)]), "longer than a device takes");
        let three = [stretch(8, 0, 64), stretch(84, 64, 4), stretch(88, 68, 16), stretch(200, 84, 4)];
        let gather = Gather::of(&three).unwrap();
        assert_eq!((gather.stretches(), gather.bytes()), (3, 96 * KIB));
        assert_eq!(gather.apart(8 * KIB as u64), three[..3]);
        let many: Vec<Stretch> = (0..40).map(|index| stretch(index * 8, index * 4, 4)).collect();
        assert_eq!(Gather::of(&many).unwrap().stretches(), STRETCHES_MAX);
    }

    #[test]
    fn a_rest_begins_where_the_device_stopped() {
        let mut gather = Gather::of(&[stretch(0, 0, 8), stretch(12, 16, 8), stretch(20, 8, 4)]).unwrap();
        let (mut buffer, mut between) = (vec![0_u8; 24 * KIB], vec![0_u8; GAP_BYTES_MAX]);
        let (start, scratch) = (buffer.as_mut_ptr(), between.as_mut_ptr());
        let mut rest = |done: usize| -> Vec<(Option<usize>, usize)> {
            // SAFETY: the stretches end at 24 KiB, and so does the buffer.
            let vectors = unsafe { gather.vectors(done, start, scratch) };
            let place =
                |vector: &libc::iovec| vector.iov_base.addr().checked_sub(start.addr()).filter(|at| *at < 24 * KIB);
            vectors.iter().map(|vector| (place(vector), vector.iov_len)).collect()
        };
        let (first, second, third) = ((Some(0), 8 * KIB), (Some(16 * KIB), 8 * KIB), (Some(8 * KIB), 4 * KIB));
        assert_eq!(rest(0), [first, (None, 4 * KIB), second, third]);
        assert_eq!(rest(8 * KIB + 512), [(None, 4 * KIB - 512), second, third]);
        assert_eq!(rest(12 * KIB), [second, third]);
        assert_eq!(rest(13 * KIB), [(Some(17 * KIB), 7 * KIB), third]);
        assert_eq!(rest(24 * KIB), []);
    }
}
