//! Command line of the sharing model: `SEEDS OPERATIONS run|bugs|script|demo`.

use envoyfs_model::scripts::{SCRIPTED_BUGS, SCRIPTS, demonstrate, run_script};
use envoyfs_model::{BUGS, Bug, Config, Stats, run};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{catch_unwind, set_hook};
use std::process::ExitCode;

const USAGE: &str = "model SEEDS OPERATIONS run [BASE] | model SEEDS OPERATIONS bugs [BASE [NAME]] | model 1 OPERATIONS replay SEED | model 0 0 script | model 0 0 demo";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).and_then(|x| x.parse().ok()).unwrap_or(default);
    let (seeds, operations, base) = (number(0, 100), number(1, 600) as usize, number(3, 0));
    let ok = match args.get(2).map_or("run", String::as_str) {
        "run" => {
            random(seeds, operations, base);
            true
        }
        "bugs" => hunt(seeds, operations, base, args.get(4).map(String::as_str)),
        "replay" => replay(operations, base),
        "script" => {
            scripts();
            true
        }
        "demo" => {
            show_space();
            true
        }
        _ => {
            println!("{USAGE}");
            false
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Random histories, every seed in both birth modes; ends at the first violation.
fn random(seeds: u64, operations: usize, base: u64) {
    let started = std::time::Instant::now();
    let mut total = Stats::default();
    let mut decremented_without_restamp = 0;
    for s in 0..seeds {
        for restamp in [true, false] {
            let config = Config { bug: Bug::None, restamp, history: s % 2 == 0, mark: s % 3 != 0, operations };
            let stats = run(base + s, config);
            decremented_without_restamp += if restamp { 0 } else { stats.dec_on_freed };
            total.add(&stats);
        }
        if s % 500 == 499 {
            eprintln!("{} seeds x2, {} ops, {:?}", s + 1, total.ops, started.elapsed());
        }
    }
    let mut named: BTreeMap<&str, u64> = total.named().into_iter().collect();
    named.insert("dec_on_freed(restamp=false)", decremented_without_restamp);
    println!("ok: {seeds} seeds x 2 modes, {:?}\n{named:#?}", started.elapsed());
}

/// One seed under every setting; false when any of them violates something.
fn replay(operations: usize, seed: u64) -> bool {
    set_hook(Box::new(|_| {}));
    let mut clean = true;
    for setting in 0..8 {
        let (restamp, history, mark) = (setting & 1 == 0, setting & 2 == 0, setting & 4 == 0);
        let config = Config { bug: Bug::None, restamp, history, mark, operations };
        let result = catch_unwind(|| run(seed, config));
        clean &= result.is_ok();
        let verdict = result.map_or_else(|e| first_line(&*e), |stats| format!("ok, {} operations", stats.ops));
        println!("seed {seed} restamp={restamp:<5} history={history:<5} mark={mark:<5} {verdict}");
    }
    clean
}

/// Every seeded bug, or one of them; false when one was caught in neither mode.
fn hunt(seeds: u64, operations: usize, base: u64, only: Option<&str>) -> bool {
    set_hook(Box::new(|_| {}));
    let mut all_caught = true;
    for &bug in BUGS.iter().filter(|b| only.is_none_or(|name| format!("{b:?}") == name)) {
        let mut caught = false;
        for restamp in [true, false] {
            let mut clean = 0;
            let mut found = None;
            for s in 0..seeds {
                let config = Config { bug, restamp, history: true, mark: true, operations };
                match catch_unwind(|| run(base + s, config)) {
                    Ok(stats) => clean += stats.ops,
                    Err(e) => {
                        found = Some(format!("caught at seed {s}: {}", first_line(&*e)));
                        break;
                    }
                }
            }
            caught |= found.is_some();
            let verdict = found.unwrap_or_else(|| "NOT CAUGHT".to_string());
            println!("{:<20} restamp={restamp:<5} clean ops before: {clean:>8}  {verdict}", format!("{bug:?}"));
        }
        // random histories do not reach this one, a script does
        all_caught &= caught || bug == Bug::MarkBlockOnly;
    }
    all_caught
}

fn scripts() {
    set_hook(Box::new(|_| {}));
    for script in SCRIPTS {
        for bug in SCRIPTED_BUGS {
            for restamp in [true, false] {
                let result = catch_unwind(|| run_script(*script, *bug, restamp));
                let verdict = result.map_or_else(|e| first_line(&*e), |()| "ok".to_string());
                println!("{:<11} {:<16} restamp={restamp:<5} {verdict}", format!("{script:?}"), format!("{bug:?}"));
            }
        }
    }
}

fn show_space() {
    let d = demonstrate();
    println!(
        "every name of every file removed, clone of /1 still there (empty): {} data blocks still allocated",
        d.empty_inner_clone
    );
    println!(
        "30-block file, snapshot, 25 blocks rewritten, snapshot deleted: {} data blocks allocated for 30 live",
        d.former_snapshot
    );
    println!("  after the mark reclaims ranges: {}", d.after_mark);
}

fn first_line(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map_or("index/other", String::as_str);
    text.lines().next().unwrap_or_default().to_string()
}
