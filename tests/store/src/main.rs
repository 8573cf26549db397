//! `store-proof crash SEEDS BASE STEPS NESTED FATES`: longer searches than the tests make, for `cargo xtask crash --long`.

use envoyfs_store_tests::explore::{Found, Reach, history};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> = arguments.iter().skip(1).map(|text| text.parse().ok()).collect();
    match (arguments.first().map(String::as_str), numbers.as_deref()) {
        (Some("crash"), Some(&[seeds, base, steps, nested, fates])) => {
            let nested = u32::try_from(nested).unwrap_or(3).min(3);
            let mut sum = Found::default();
            for seed in base..base + seeds {
                let found = history(seed, steps, Reach { nested, fates, recoveries_max: u64::MAX });
                sum.add(&found);
                println!("{found}");
            }
            println!("{seeds} histories: {sum}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: store-proof crash SEEDS BASE STEPS NESTED FATES");
            ExitCode::FAILURE
        }
    }
}
