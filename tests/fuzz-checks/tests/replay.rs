//! The kept corpus, the seeds, and mutations of both, through every property: what the fuzzer found stays found, on a stable toolchain.
//!
//! One test, since memory is measured for the whole process. `FUZZ_SEED` and `FUZZ_ROUNDS` (mutations an input) repeat or widen a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use envoyfs_fuzz_checks::TARGETS;
use peak_alloc::PeakAlloc;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Memory that a check may take: copies of the input, decoded forms of it (an empty pair of byte strings takes 48 bytes for 3), and those encoded again.
fn allowed(input_bytes: usize) -> usize {
    (64 << 10) + 128 * input_bytes
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// What breaks decoders: bits, extreme values in fields, pieces cut, doubled or moved.
fn mutated(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(out.len() + 1);
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 if at + 4 <= out.len() => {
                let value = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 511, 4096][random.below(7)];
                out[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            3 => out.truncate(at),
            4 => {
                let from = random.below(other.len() + 1);
                out.extend_from_slice(&other[from..]);
            }
            5 if at < out.len() => {
                let piece: Vec<u8> = out[at..].iter().copied().take(1 + random.below(32)).collect();
                let to = random.below(out.len());
                out.splice(to..to, piece);
            }
            _ if at < out.len() => {
                let end = (at + 1 + random.below(16)).min(out.len());
                out.drain(at..end);
            }
            _ => {}
        }
    }
    out.truncate(1 << 16);
    out
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn no_input_breaks_a_decoder() {
    let (seed, rounds) = (from_env("FUZZ_SEED", 1), from_env("FUZZ_ROUNDS", 200));
    println!("FUZZ_SEED={seed} FUZZ_ROUNDS={rounds} cargo test -p envoyfs-fuzz-checks --test replay");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let (mut checked, mut failures) = (0_u64, Vec::new());
    seeds_are_accepted();
    for target in TARGETS {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        let mut files: Vec<_> = std::fs::read_dir(corpus.join(target.name))
            .map(|dir| dir.flatten().map(|file| file.path()).collect())
            .unwrap_or_default();
        files.sort();
        inputs.extend(files.iter().map(|file| std::fs::read(file).unwrap()));
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Many inputs get fewer mutations each, so that no target takes all the time.
        let each = rounds * 20 / (inputs.len() as u64).max(20);
        'target: for index in 0..inputs.len() {
            for round in 0..=each {
                let other = random.below(inputs.len());
                let input = match round {
                    0 => inputs[index].clone(),
                    _ => mutated(&mut random, &inputs[index], &inputs[other]),
                };
                let before = PeakAlloc.current_usage();
                PeakAlloc.reset_peak_usage();
                let result = catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
                let used = PeakAlloc.peak_usage().saturating_sub(before);
                let why = match result {
                    Err(_) => "a property does not hold (see above)".to_string(),
                    Ok(()) if used > allowed(input.len()) => {
                        format!("{used} bytes of memory for {} of input", input.len())
                    }
                    Ok(()) => String::new(),
                };
                if !why.is_empty() {
                    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{}", target.name));
                    std::fs::write(&kept, &input).unwrap();
                    failures.push(format!(
                        "{}: input {index}, round {round}: {why}; kept in {}",
                        target.name,
                        kept.display()
                    ));
                    break 'target;
                }
                checked += 1;
            }
        }
    }
    println!("{checked} inputs");
    assert!(failures.is_empty(), "FUZZ_SEED={seed}:\n{}", failures.join("\n"));
}

/// A property that is never reached proves nothing.
fn seeds_are_accepted() {
    use envoyfs_layout::superblock::Superblock;
    use envoyfs_layout::wal::Record;
    let seeds = |name: &str| (TARGETS.iter().find(|target| target.name == name).unwrap().seeds)();
    assert!(Superblock::decode(&seeds("superblock")[0], 1 << 20).is_ok());
    assert!(seeds("record").iter().all(|bytes| Record::decode(bytes).is_ok()));
    assert!(seeds("operation").iter().all(|bytes| {
        let (kind, body) = bytes.split_first_chunk().unwrap();
        envoyfs_layout::operation::Operation::decode(u16::from_le_bytes(*kind), body).is_ok()
    }));
}
