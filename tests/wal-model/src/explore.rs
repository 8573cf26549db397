//! Depth-first with fingerprints, and at random from a seed.
use crate::config::{Bug, Config, EXHAUSTIVE, RANDOM, WITHOUT_A_RECORD};
use crate::world::{Act, Counters, World};
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub struct Outcome {
    pub states: u64,
    pub counters: Counters,
    pub complete: bool,
    pub violation: Option<(String, String)>,
}

struct Trace(Act, Vec<usize>, Option<Rc<Trace>>);

fn show(t: &Option<Rc<Trace>>) -> String {
    let mut out = vec![];
    let mut at = t.clone();
    while let Some(t) = at {
        out.push(if t.1.is_empty() { format!("{:?}", t.0) } else { format!("{:?}{:?}", t.0, t.1) });
        at = t.2.clone();
    }
    out.reverse();
    out.join(" ")
}

fn fingerprint(w: &World) -> u128 {
    let mut h = DefaultHasher::new();
    w.hash(&mut h);
    let low = h.finish();
    let mut h = DefaultHasher::new();
    (0x9e37u16, low).hash(&mut h);
    w.spent.hash(&mut h);
    w.device.hash(&mut h);
    (h.finish() as u128) << 64 | low as u128
}

pub fn exhaustive(cfg: &Config, limit: u64, time: Duration) -> Outcome {
    let start = Instant::now();
    let mut counters = Counters::default();
    let mut seen = HashSet::new();
    let mut stack: Vec<(World, Option<Rc<Trace>>)> = vec![(World::format(cfg), None)];
    seen.insert(fingerprint(&stack[0].0));
    while let Some((w, trace)) = stack.pop() {
        if seen.len() as u64 > limit || start.elapsed() > time {
            return Outcome { states: seen.len() as u64, counters, complete: false, violation: None };
        }
        for act in w.acts(cfg) {
            let mut script: Vec<(usize, usize)> = vec![]; // choice taken, number of choices
            loop {
                let mut next = w.clone();
                let mut at = 0;
                let result = next.step(
                    cfg,
                    act,
                    &mut |n| {
                        if at == script.len() {
                            script.push((0, n));
                        }
                        at += 1;
                        script[at - 1].0
                    },
                    &mut counters,
                );
                let step = || Some(Rc::new(Trace(act, script.iter().map(|s| s.0).collect(), trace.clone())));
                if let Err(why) = result {
                    return Outcome {
                        states: seen.len() as u64,
                        counters,
                        complete: false,
                        violation: Some((why, show(&step()))),
                    };
                }
                if seen.insert(fingerprint(&next)) {
                    stack.push((next, step()));
                }
                while script.last().is_some_and(|s| s.0 + 1 == s.1) {
                    script.pop();
                }
                match script.last_mut() {
                    Some(s) => s.0 += 1,
                    None => break,
                }
            }
        }
    }
    Outcome { states: seen.len() as u64, counters, complete: true, violation: None }
}

pub fn random(cfg: &Config, seed: u64, runs: u64, time: Duration) -> Outcome {
    let start = Instant::now();
    let mut counters = Counters::default();
    let mut states = 0;
    for run in seed..seed + runs {
        if start.elapsed() > time {
            return Outcome { states, counters, complete: false, violation: None };
        }
        let mut x = run.wrapping_mul(0x9e3779b97f4a7c15) | 1;
        let mut pick = |n: usize| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 20) % n as u64) as usize
        };
        let mut w = World::format(cfg);
        let mut trace = None;
        let busy = 1 + pick(6); // crashes are rarer in some runs
        loop {
            let acts = w.acts(cfg);
            if acts.is_empty() {
                break;
            }
            let mut act = acts[pick(acts.len())];
            for _ in 0..busy {
                if matches!(act, Act::PowerLoss | Act::ProcessCrash | Act::FlushFails) {
                    act = acts[pick(acts.len())];
                }
            }
            let mut script = vec![];
            let result = w.step(
                cfg,
                act,
                &mut |n| {
                    // faults (many choices) in one crash of four; else uniformly
                    let c = if n > 12 && pick(4) > 0 { 0 } else { pick(n) };
                    script.push(c);
                    c
                },
                &mut counters,
            );
            states += 1;
            trace = Some(Rc::new(Trace(act, script, trace)));
            if let Err(why) = result {
                return Outcome {
                    states,
                    counters,
                    complete: false,
                    violation: Some((format!("{why} (seed {run})"), show(&trace))),
                };
            }
        }
    }
    Outcome { states, counters, complete: true, violation: None }
}

/// How a seeded bug was caught.
pub struct Caught {
    /// The first violated property.
    pub sign: String,
    pub configuration: &'static str,
    /// Every step and choice up to the violation.
    pub trace: String,
}

pub struct Hunt {
    pub bug: Bug,
    pub states: u64,
    pub caught: Option<Caught>,
}

/// Looks for the bug in every configuration, the random ones first: they are the cheap ones.
pub fn hunt(bug: Bug, budget: Duration) -> Hunt {
    let start = Instant::now();
    let mut states = 0;
    for (at_random, c) in RANDOM.iter().map(|c| (true, c)).chain(EXHAUSTIVE.iter().map(|c| (false, c))) {
        if WITHOUT_A_RECORD.contains(&bug) && !c.unrecorded {
            continue;
        }
        let c = Config { bug: Some(bug), ..*c };
        if start.elapsed() > budget {
            break;
        }
        let left = budget / if at_random { 8 } else { 16 };
        let o = if at_random { random(&c, 1, 1_000_000, left) } else { exhaustive(&c, 20_000_000, left) };
        states += o.states;
        if let Some((sign, trace)) = o.violation {
            return Hunt { bug, states, caught: Some(Caught { sign, configuration: c.name, trace }) };
        }
    }
    Hunt { bug, states, caught: None }
}
