//! Writes the seeds of every target to FOLDER/target/seed-N, for the fuzzer to start from.
#![allow(clippy::expect_used, reason = "a tool of the project's own tests")]

use envoyfs_fuzz_checks::TARGETS;
use std::path::PathBuf;

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("usage: fuzz-seeds FOLDER"));
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        for (index, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index}")), seed).expect("a seed can be written");
        }
    }
}
