//! A device with a volatile cache. Between two flushes every write may be kept, dropped or torn, in any order.
use crate::format::Block;

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Write {
    pub at: usize,
    pub block: Block,
    pub done: bool,    // completed towards the host; a flush covers only completed writes
    pub covered: bool, // completed when the flush in flight began
    pub limbo: bool,   // was in the cache when a flush failed: no later flush makes it durable
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Device {
    pub media: Vec<Block>,
    pub previous: Vec<Block>, // what a lost write would show; kept only when faults are explored
    pub cache: Vec<Write>,
    pub keep_previous: bool,
}

impl Device {
    pub fn new(n: usize, keep_previous: bool) -> Device {
        Device { media: vec![Block::Empty; n], previous: vec![Block::Empty; n], cache: vec![], keep_previous }
    }
    pub fn read(&self, at: usize) -> &Block {
        self.cache.iter().rev().find(|w| w.at == at).map_or(&self.media[at], |w| &w.block)
    }
    pub fn write(&mut self, at: usize, block: Block, done: bool) {
        self.cache.push(Write { at, block, done, covered: false, limbo: false });
    }
    fn land(&mut self, at: usize, block: Block) {
        let old = std::mem::replace(&mut self.media[at], block);
        if self.keep_previous {
            self.previous[at] = old;
        }
    }
    /// Makes the writes that satisfy `covered` durable.
    pub fn flush(&mut self, covered: impl Fn(&Write) -> bool) {
        for w in std::mem::take(&mut self.cache) {
            if covered(&w) && w.done && !w.limbo {
                self.land(w.at, w.block);
            } else {
                self.cache.push(w);
            }
        }
    }
    /// Power loss; `choose(n)` picks 0..n for every block with writes in the cache: old, one of the writes, torn.
    pub fn power_loss(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        let cache = std::mem::take(&mut self.cache);
        let mut ats: Vec<usize> = cache.iter().map(|w| w.at).collect();
        ats.sort();
        ats.dedup();
        for at in ats {
            let writes: Vec<&Write> = cache.iter().filter(|w| w.at == at).collect();
            let c = choose(writes.len() + 2);
            if c == writes.len() + 1 {
                self.land(at, Block::Garbage);
            } else if c > 0 {
                self.land(at, writes[c - 1].block.clone());
            }
        }
    }
}
