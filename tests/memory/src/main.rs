//! One long run with settings of the size of a mount's, and the process' own high-water mark: `cargo run --release -p envoyfs-memory-tests -- [OPERATIONS]`.

use envoyfs_engine::Settings;
use envoyfs_memory_tests::counted::Counting;
use envoyfs_memory_tests::history::{Plan, run};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> anyhow::Result<()> {
    let steps = std::env::args().nth(1).map_or(Ok(1_250_000), |steps| steps.parse())?;
    let plan = Plan {
        mib: 3 << 10,
        wal_bytes: 64 << 20,
        segment_bytes: 4 << 20,
        settings: Settings { segment_cache_bytes: 4 << 20, slot_map_bytes: 2 << 20, ..Settings::default() },
        steps,
        trees: 80,
        // One node names all leaves of a tree: about 340 of 16 keys.
        keys: 5_000,
        blocks_max: 1,
        notes: 0,
        mount_every: steps / 3,
        seed: 1,
    };
    println!("{plan:#?}\n{:#?}", run(&plan));
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mark = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("{mark}, with the client and the simulated device");
    Ok(())
}
