//! Policies of cleaning compared, on containers of blocks and nothing else: no reserve, no nodes, no tables (decision 0009). What the engine uses is called here, not copied: its score
//! of a victim, and its walk between classes of heat.

use crate::random::{Random, Skew};
use envoyfs_engine::space::heat::{Evidence, Heat, Scale};
use envoyfs_engine::victim_score;
use std::fmt::{Display, Formatter};

/// Containers kept free.
const KEPT_FREE: usize = 4;
/// Most classes that writes, or survivors, are told apart by.
const CLASSES: usize = 6;

/// Which container is cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Closed first.
    Fifo,
    /// Least alive.
    Greedy,
    /// (1 - u) / (1 + u) times the age of the youngest data.
    CostBenefitData,
    /// (1 - u) / (1 + u) times the age since it was closed.
    CostBenefitClosed,
    /// The engine's.
    Index,
}

/// What is written together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Everything.
    One,
    /// Writes; survivors.
    Apart,
    /// Writes; survivors by how often they were moved, 4.
    Moves,
    /// Writes; survivors by age, 4.
    Age,
    /// Writes by the life of what they replace, 2; survivors by age, 4.
    LifeAndAge,
    /// Writes by the life of what they replace, survivors by age, 6 each.
    Life,
    /// The engine's, 6 each.
    Heat,
    /// The engine's, as long as its classes differ; writes and survivors apart where they do not.
    Adaptive,
    /// A mean of the logarithm of each block's lives, 6 each.
    MeanLife,
    /// Rates known, 6 each.
    Known,
}

#[derive(Clone, Default)]
struct Container {
    blocks: Vec<u32>,
    live: u32,
    closed: Option<u64>,
    youngest: u64,
    heat: usize,
}

#[derive(Clone, Copy, Default)]
struct Block {
    container: u32,
    index: u32,
    written: u64,
    segment: u64,
    moves: u32,
    mean: f64,
    class: usize,
}

struct Simulation {
    victim: Victim,
    streams: Streams,
    size: usize,
    containers: Vec<Container>,
    free: Vec<u32>,
    open: Vec<Option<u32>>,
    blocks: Vec<Block>,
    /// The engine's classes by number.
    heats: Vec<Heat>,
    scale: Scale,
    openings: u64,
    segments: u64,
    writes: u64,
    moved: u64,
    alike: bool,
    choices: u64,
}

impl Simulation {
    /// Class by a life in writes: as many doublings as the engine's classes have.
    fn class_of(&self, life: f64, classes: usize) -> usize {
        let shortest = self.blocks.len() as f64 / 25.0;
        ((life / shortest).log2().round().max(0.0) as usize).min(classes - 1)
    }

    fn heat_index(&self, heat: Heat) -> usize {
        self.heats.iter().position(|known| *known == heat).unwrap_or(CLASSES / 2)
    }

    fn stream_of_write(&mut self, block: usize) -> usize {
        let old = self.blocks[block];
        let life = (self.writes - old.written) as f64;
        match self.streams {
            Streams::One | Streams::Apart | Streams::Moves | Streams::Age => 0,
            Streams::LifeAndAge => usize::from(life > self.blocks.len() as f64 / 2.0),
            Streams::Life => self.class_of(life, CLASSES),
            Streams::Heat => {
                let heat = self.heats[self.containers[old.container as usize].heat];
                self.heat_index(self.scale.of_successor(heat, self.segments - old.segment))
            }
            Streams::Adaptive => {
                if self.alike {
                    return self.room(0, 3);
                }
                let heat = self.heats[self.containers[old.container as usize].heat];
                self.heat_index(self.scale.of_successor(heat, self.segments - old.segment))
            }
            Streams::MeanLife => {
                let mean = if old.mean == 0.0 { life.ln() } else { old.mean * 0.75 + life.ln() * 0.25 };
                self.blocks[block].mean = mean;
                self.class_of(mean.exp(), CLASSES)
            }
            Streams::Known => old.class,
        }
    }

    fn stream_of_survivor(&self, block: usize, from: usize) -> usize {
        let it = self.blocks[block];
        let age = (self.writes - it.written) as f64;
        CLASSES
            + match self.streams {
                Streams::One => return 0,
                Streams::Apart => 0,
                Streams::Moves => (it.moves as usize).min(3),
                Streams::Age | Streams::LifeAndAge => self.class_of(age / 2.0, 4),
                Streams::Life => self.class_of(age, CLASSES),
                Streams::Heat => self.heat_index(self.scale.of_survivor(self.heats[from], self.segments - it.segment)),
                Streams::Adaptive => {
                    if self.alike {
                        self.room(CLASSES, 4) - CLASSES
                    } else {
                        self.heat_index(self.scale.of_survivor(self.heats[from], self.segments - it.segment))
                    }
                }
                Streams::MeanLife => self.class_of(it.mean.exp().max(age), CLASSES),
                Streams::Known => it.class,
            }
    }

    /// Some open container with room, or the stream `or`.
    fn room(&self, base: usize, or: usize) -> usize {
        base + (0..CLASSES).find(|at| self.open[base + at].is_some()).unwrap_or(or)
    }

    fn append(&mut self, stream: usize, block: usize) {
        let container = match self.open[stream] {
            Some(at) => at,
            None => {
                self.openings += 1;
                self.segments += u64::from(stream < CLASSES);
                let next = self.free.pop().unwrap();
                self.containers[next as usize].heat = stream % CLASSES;
                self.open[stream] = Some(next);
                next
            }
        };
        let into = &mut self.containers[container as usize];
        self.blocks[block].container = container;
        self.blocks[block].index = into.blocks.len() as u32;
        into.blocks.push(block as u32);
        into.live += 1;
        into.youngest = into.youngest.max(self.blocks[block].written);
        if into.blocks.len() == self.size {
            into.closed = Some(self.openings);
            self.open[stream] = None;
        }
    }

    fn write(&mut self, block: usize, is_new: bool) {
        let stream = if is_new { 0 } else { self.stream_of_write(block) };
        if !is_new {
            self.containers[self.blocks[block].container as usize].live -= 1;
            while self.free.len() <= KEPT_FREE {
                // Its own old place is dead already: it cannot be moved.
                self.blocks[block].index = u32::MAX;
                self.clean();
            }
        }
        let (writes, segments) = (self.writes, self.segments);
        let it = &mut self.blocks[block];
        (it.written, it.segment, it.moves) = (writes, segments, 0);
        self.append(stream, block);
        self.writes += 1;
    }

    fn judge(&mut self) {
        let mut evidence = Evidence::default();
        for it in &self.containers {
            let Some(closed) = it.closed else { continue };
            evidence.add(self.heats[it.heat], self.size as u32, it.live, self.openings - closed);
        }
        self.alike = evidence.are_alike(self.alike);
    }

    fn clean(&mut self) {
        self.choices += 1;
        if self.streams == Streams::Adaptive && self.choices.is_multiple_of(8) {
            self.judge();
        }
        let score = |at: usize| -> Option<f64> {
            let it = &self.containers[at];
            let closed = it.closed?;
            let share = f64::from(it.live) / self.size as f64;
            let age = (self.openings - closed) as f64;
            Some(match self.victim {
                Victim::Fifo => age,
                Victim::Greedy => -share,
                Victim::CostBenefitData => (1.0 - share) / (1.0 + share) * (self.writes - it.youngest) as f64,
                Victim::CostBenefitClosed => (1.0 - share) / (1.0 + share) * (age + 1.0),
                Victim::Index => victim_score(it.live, self.size as u32, self.openings - closed),
            })
        };
        let best = (0..self.containers.len()).filter_map(|at| Some((score(at)?, at)));
        let (_, victim) = best.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let old = std::mem::take(&mut self.containers[victim]);
        // At once: each class may need a container, more than are kept free.
        self.free.insert(0, victim as u32);
        for (index, block) in old.blocks.iter().enumerate() {
            let at = *block as usize;
            if self.blocks[at].container == victim as u32 && self.blocks[at].index == index as u32 {
                let stream = self.stream_of_survivor(at, old.heat);
                self.blocks[at].moves += 1;
                self.append(stream, at);
                self.moved += 1;
            }
        }
    }
}

/// One cell: a store of `containers` of `size` blocks, `fill` percent live, written over ten times; bytes written for each byte of the client's, over the second half.
pub fn amplification(victim: Victim, streams: Streams, containers: usize, size: usize, fill: usize, zipf: f64) -> f64 {
    let count = containers * size * fill / 100;
    let mut random = Random(7);
    let skew = Skew::new(count, zipf, &mut random);
    let scale = Scale::of(CLASSES as u8, 2, containers as u32);
    let mut it = Simulation {
        victim,
        streams,
        size,
        containers: vec![Container::default(); containers],
        free: (0..containers as u32).rev().collect(),
        open: vec![None; 2 * CLASSES],
        blocks: vec![Block::default(); count],
        heats: scale.all().collect(),
        scale,
        openings: 0,
        segments: 0,
        writes: 0,
        moved: 0,
        alike: false,
        choices: 0,
    };
    if let Skew::Zipf { sums, block_of_rank } = &skew {
        let total = sums[count - 1];
        for (rank, block) in block_of_rank.iter().enumerate() {
            let share = ((rank + 1) as f64).powf(-zipf) / total;
            it.blocks[*block as usize].class = it.class_of(1.0 / share, CLASSES);
        }
    }
    for block in 0..count {
        it.write(block, true);
    }
    let total = containers * size * 10;
    let mut before = (0, 0);
    for n in 0..total {
        if n == total / 2 {
            before = (it.writes, it.moved);
        }
        let block = skew.draw(&mut random);
        it.write(block, false);
    }
    1.0 + (it.moved - before.1) as f64 / (it.writes - before.0) as f64
}

/// A row of the table of decision 0009.
#[derive(Clone, Copy)]
pub struct Row(pub Victim, pub Streams);

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "| {:?} | {:?} |", self.0, self.1)
    }
}

/// Every policy that was compared.
pub const ROWS: [Row; 13] = [
    Row(Victim::Fifo, Streams::One),
    Row(Victim::Greedy, Streams::Apart),
    Row(Victim::CostBenefitData, Streams::Apart),
    Row(Victim::CostBenefitClosed, Streams::Apart),
    Row(Victim::CostBenefitClosed, Streams::Moves),
    Row(Victim::CostBenefitClosed, Streams::Age),
    Row(Victim::CostBenefitClosed, Streams::LifeAndAge),
    Row(Victim::Index, Streams::Apart),
    Row(Victim::Index, Streams::Life),
    Row(Victim::Index, Streams::Heat),
    Row(Victim::Index, Streams::Adaptive),
    Row(Victim::Index, Streams::MeanLife),
    Row(Victim::Index, Streams::Known),
];

/// Prints the table of decision 0009.
pub fn table(containers: usize, size: usize) {
    println!("| victim | streams | uniform 80 | uniform 90 | zipf 0.8, 80 | zipf 0.8, 90 |\n|---|---|---|---|---|---|");
    for row in ROWS {
        let cell = |fill, zipf| amplification(row.0, row.1, containers, size, fill, zipf);
        println!("{row} {:.2} | {:.2} | {:.2} | {:.2} |", cell(80, 0.0), cell(90, 0.0), cell(80, 0.8), cell(90, 0.8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytic::fifo;

    #[test]
    fn fifo_costs_what_theory_says_and_separation_pays_under_skew() {
        let of = |victim, streams, zipf| amplification(victim, streams, 400, 128, 80, zipf);
        // Four of 400 containers and the open one are not the blocks'.
        let (found, theory) = (of(Victim::Fifo, Streams::One, 0.0), fifo(0.8 * 400.0 / 395.0));
        assert!((found / theory - 1.0).abs() < 0.05, "{found} and {theory}");
        let (apart, heat) = (of(Victim::Index, Streams::Apart, 0.8), of(Victim::Index, Streams::Heat, 0.8));
        assert!(heat < apart, "{heat} and {apart}");
    }
}
