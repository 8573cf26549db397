//! Histories of the sharing model drive the real namespace.
//!
//! The driver keeps the steps that are not durable with the value after each: after a power failure the namespace must show the
//! value at the recovered end of the log, and the lost steps are done again.

mod compare;
mod driver;
mod ground;
mod probe;
mod recount;
mod step;

pub use driver::Failure;
pub use ground::{Ground, Memory, Simulated};

use driver::Driver;

/// Runs one history; what is wrong, if something is.
pub fn history(ground: impl Ground, seed: u64, operations: usize) -> Result<(), String> {
    let mut driver = Driver::new(ground, seed);
    driver.run(operations).map_err(|failure| {
        let what = match failure {
            Failure::Wrong(what) => what,
            Failure::Power => "the store failed, and the power did not".into(),
        };
        format!("seed {seed} operation {}: {what}", driver.operation())
    })
}
