//! The pages of a device image, frugal with memory: a page that repeats one word of eight bytes (zeros too) takes eight bytes, so that a simulated
//! device of many GiB fits into memory as long as what is stored in it is simple.
//!
//! Pages live in groups, which clones share until one of them is changed.

use super::widen;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const PAGE_BYTES: usize = 4096;
pub(super) type Page = [u8; PAGE_BYTES];

/// Pages of a group.
const GROUP: usize = 256;

/// Pages by number; those never set are zero.
#[derive(Clone, Default)]
pub(super) struct Pages {
    groups: BTreeMap<u64, Arc<Group>>,
}

#[derive(Clone)]
struct Group {
    /// By page: the word that it repeats. Zero for those in `others`.
    words: [u64; GROUP],
    /// Pages that repeat no word.
    others: BTreeMap<u16, Arc<Page>>,
}

/// What a page holds.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// This word, over and over (in the order of memory).
    Word(u64),
    Bytes(&'a Page),
}

impl Content<'_> {
    /// Fills `part` with what lies at `within` of the page.
    pub(super) fn copy(self, within: usize, part: &mut [u8]) {
        match self {
            Content::Bytes(page) => {
                if let Some(stored) = page.get(within..within + part.len()) {
                    part.copy_from_slice(stored);
                }
            }
            Content::Word(0) => part.fill(0),
            Content::Word(word) => {
                let bytes = word.to_le_bytes();
                let mut from = bytes.iter().cycle().skip(within % 8);
                part.iter_mut().for_each(|byte| *byte = from.next().copied().unwrap_or(0));
            }
        }
    }

    pub(super) fn to_page(self) -> Page {
        let mut page = [0; PAGE_BYTES];
        self.copy(0, &mut page);
        page
    }
}

/// The word that a page repeats.
fn word_of(page: &Page) -> Option<u64> {
    let word = *page.first_chunk::<8>()?;
    let repeats = page.get(8..) == page.get(..PAGE_BYTES - 8);
    repeats.then(|| u64::from_le_bytes(word))
}

fn place(page: u64) -> (u64, usize) {
    (page / widen(GROUP), usize::try_from(page % widen(GROUP)).unwrap_or(0))
}

fn key(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl Pages {
    pub(super) fn get(&self, page: u64) -> Content<'_> {
        let (group, index) = place(page);
        self.groups.get(&group).map_or(Content::Word(0), |group| group.get(index))
    }

    /// Replaces `bytes` of a page, from `within`.
    pub(super) fn write(&mut self, page: u64, within: usize, bytes: &[u8]) {
        let (group, index) = place(page);
        let group = self.groups.entry(group).or_insert_with(|| Arc::new(Group::empty()));
        if let Ok(whole) = <&Page>::try_from(bytes) {
            return Arc::make_mut(group).set(index, whole);
        }
        let group = Arc::make_mut(group);
        if let Some(stored) = group.others.get_mut(&key(index)) {
            let stored = Arc::make_mut(stored);
            if let Some(target) = stored.get_mut(within..within + bytes.len()) {
                target.copy_from_slice(bytes);
            }
            if let Some(word) = word_of(stored) {
                group.others.remove(&key(index));
                group.set_word(index, word);
            }
            return;
        }
        let mut changed = group.get(index).to_page();
        if let Some(target) = changed.get_mut(within..within + bytes.len()) {
            target.copy_from_slice(bytes);
        }
        group.set(index, &changed);
    }

    /// Zeroes whole pages.
    pub(super) fn zero(&mut self, pages: std::ops::Range<u64>) {
        let groups = pages.start / widen(GROUP)..pages.end.div_ceil(widen(GROUP));
        let touched: Vec<u64> = self.groups.range(groups).map(|(group, _)| *group).collect();
        for number in touched {
            let first = number * widen(GROUP);
            if pages.start <= first && first + widen(GROUP) <= pages.end {
                self.groups.remove(&number);
            } else if let Some(group) = self.groups.get_mut(&number) {
                let group = Arc::make_mut(group);
                for page in first.max(pages.start)..(first + widen(GROUP)).min(pages.end) {
                    let (_, index) = place(page);
                    group.others.remove(&key(index));
                    group.set_word(index, 0);
                }
            }
        }
    }

    /// The pages that are not zero, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Content<'_>)> {
        let pages = self.groups.iter().flat_map(|(number, group)| {
            (0..GROUP).map(move |index| (number * widen(GROUP) + widen(index), group.get(index)))
        });
        pages.filter(|(_, content)| !matches!(content, Content::Word(0)))
    }

    /// Bytes of memory that the contents take, about.
    pub(super) fn memory(&self) -> usize {
        let groups = self.groups.values();
        groups.map(|group| size_of::<Group>() + group.others.len() * (PAGE_BYTES + 32) + 48).sum()
    }
}

impl Group {
    fn empty() -> Group {
        Group { words: [0; GROUP], others: BTreeMap::new() }
    }

    fn get(&self, index: usize) -> Content<'_> {
        match self.words.get(index) {
            Some(0) | None => self.others.get(&key(index)).map_or(Content::Word(0), |page| Content::Bytes(page)),
            Some(word) => Content::Word(*word),
        }
    }

    fn set_word(&mut self, index: usize, word: u64) {
        if let Some(place) = self.words.get_mut(index) {
            *place = word;
        }
    }

    fn set(&mut self, index: usize, page: &Page) {
        let word = word_of(page);
        self.set_word(index, word.unwrap_or(0));
        match (word, self.others.get_mut(&key(index))) {
            (Some(_), None) => {}
            (Some(_), Some(_)) => {
                self.others.remove(&key(index));
            }
            (None, Some(stored)) => *Arc::make_mut(stored) = *page,
            (None, None) => {
                self.others.insert(key(index), Arc::new(*page));
            }
        }
    }
}

impl PartialEq for Pages {
    fn eq(&self, other: &Pages) -> bool {
        let mut theirs = other.iter();
        let same = |ours: Content<'_>, theirs: Content<'_>| match (ours, theirs) {
            (Content::Word(ours), Content::Word(theirs)) => ours == theirs,
            (Content::Bytes(ours), Content::Bytes(theirs)) => std::ptr::eq(ours, theirs) || ours == theirs,
            _ => false,
        };
        let all =
            self.iter().all(|(page, ours)| theirs.next().is_some_and(|(at, theirs)| at == page && same(ours, theirs)));
        all && theirs.next().is_none()
    }
}

impl Eq for Pages {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::random::Random;

    #[test]
    fn pages_hold_what_was_written_whether_it_repeats_or_not() {
        let mut random = Random::new(5);
        let mut pages = Pages::default();
        let mut plain = vec![0_u8; 600 * PAGE_BYTES];
        for _ in 0..4000 {
            let page = random.below(600);
            let at = page * PAGE_BYTES;
            match random.below(5) {
                0 => {
                    let word = random.next().to_le_bytes();
                    let bytes: Vec<u8> = word.iter().copied().cycle().take(PAGE_BYTES).collect();
                    pages.write(widen(page), 0, &bytes);
                    plain[at..at + PAGE_BYTES].copy_from_slice(&bytes);
                }
                1 => {
                    let bytes = [random.below(2).try_into().unwrap(); 512];
                    let within = random.below(8) * 512;
                    pages.write(widen(page), within, &bytes);
                    plain[at + within..at + within + 512].copy_from_slice(&bytes);
                }
                2 => {
                    let bytes: Vec<u8> = (0..PAGE_BYTES).map(|_| random.below(256).try_into().unwrap()).collect();
                    pages.write(widen(page), 0, &bytes);
                    plain[at..at + PAGE_BYTES].copy_from_slice(&bytes);
                }
                3 => {
                    let end = (page + random.below(40)).min(600);
                    pages.zero(widen(page)..widen(end));
                    plain[at..end * PAGE_BYTES].fill(0);
                }
                _ => {
                    let (within, length) = (random.below(4000), 1 + random.below(96));
                    let mut part = vec![9; length];
                    pages.get(widen(page)).copy(within, &mut part);
                    assert_eq!(part, plain[at + within..at + within + length]);
                }
            }
        }
        let mut again = Pages::default();
        for (page, bytes) in plain.chunks(PAGE_BYTES).enumerate() {
            assert_eq!(pages.get(widen(page)).to_page(), bytes);
            again.write(widen(page), 0, bytes);
        }
        assert!(again == pages);
        again.write(599, 4095, &[1]);
        again.write(0, 0, &[1]);
        assert!(again != pages);
    }

    #[test]
    fn a_page_that_repeats_a_word_takes_a_few_bytes() {
        let mut pages = Pages::default();
        for page in 0..100_000_u64 {
            pages.write(page, 0, &[u8::try_from(page % 256).unwrap(); PAGE_BYTES]);
        }
        assert!(pages.memory() < 10 * 100_000, "{}", pages.memory());
    }
}
