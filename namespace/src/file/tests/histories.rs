//! Random histories.

use super::Machine;
use proptest::prelude::*;

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: usize, byte: u8 },
    Truncate(u64),
    Punch(u64, u64),
    Append { len: usize, byte: u8 },
    Gap,
    Freeze,
    Build,
    FailedBuild,
    Install,
    Checkpoint,
    Fork,
    Move,
    Read(u64, usize),
    Replay,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        10 => 0_u64..20 * 4096,
        6 => (0_u64..30).prop_map(|block| block * 4096),
        2 => 0_u64..300,
        1 => (0_u64..40_000).prop_map(|at| (1 << 40) + at),
        1 => (0_u64..5).prop_map(|block| (1 << 62) + block * 4096),
    ]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0_usize..200, 2 => 1_usize..9000, 4 => (1_usize..6).prop_map(|blocks| blocks * 4096), 1 => 1_usize..60_000]
}

fn step() -> impl Strategy<Value = Step> {
    let byte = 0_u8..5;
    prop_oneof![
        12 => (offset(), len(), byte.clone()).prop_map(|(offset, len, byte)| Step::Write { offset, len, byte }),
        4 => (len(), byte).prop_map(|(len, byte)| Step::Append { len, byte }),
        4 => offset().prop_map(Step::Truncate),
        1 => Just(Step::Truncate(0)),
        3 => (offset(), 0_u64..50_000).prop_map(|(offset, len)| Step::Punch(offset, len)),
        1 => Just(Step::Gap),
        3 => Just(Step::Freeze),
        3 => Just(Step::Build),
        1 => Just(Step::FailedBuild),
        3 => Just(Step::Install),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Fork),
        1 => Just(Step::Move),
        3 => (offset(), 1_usize..50_000).prop_map(|(offset, len)| Step::Read(offset, len)),
        1 => Just(Step::Replay),
    ]
}

/// Bytes that differ from place to place and between writes; byte 0 is a write of zeros.
fn bytes(len: usize, byte: u8, salt: usize) -> Vec<u8> {
    let value = |at: usize| u8::try_from((at / 7 + salt * 13) % 250).unwrap().wrapping_add(byte);
    (0..len).map(|at| if byte == 0 { 0 } else { value(at) }).collect()
}

fn run(machine: &mut Machine, number: usize, step: &Step) {
    match step {
        Step::Write { offset, len, byte } => machine.write(*offset, &bytes(*len, *byte, number)).unwrap(),
        Step::Append { len, byte } => {
            let end = machine.oracle.size;
            if end < 1 << 62 {
                machine.write(end, &bytes(*len, *byte, number)).unwrap();
            }
        }
        Step::Truncate(size) => machine.truncate(*size).unwrap(),
        Step::Punch(offset, len) => machine.punch(*offset, *len).unwrap(),
        Step::Gap => machine.store.leave_gap(),
        Step::Freeze => machine.freeze(),
        Step::Build => machine.build().unwrap(),
        Step::FailedBuild => failed_build(machine),
        Step::Install => machine.install(),
        Step::Checkpoint => machine.checkpoint().unwrap(),
        Step::Fork => machine.fork().unwrap(),
        Step::Move => machine.raise_share(),
        Step::Read(offset, len) => {
            let mut into = vec![0xee; *len];
            let count = machine.content.read(&machine.nodes, machine.oracle.size, *offset, &mut into).unwrap();
            assert!(into[..count] == machine.oracle.read(*offset, *len)[..]);
            seek(machine, *offset);
        }
        Step::Replay => machine.check_replay(),
    }
}

/// An error in a build leaves all as it was, but for objects that nobody names.
fn failed_build(machine: &mut Machine) {
    let before = machine.content.allocated();
    machine.store.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let failed = machine.built.is_none() && machine.build().is_err();
    machine.store.broken.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(!failed || machine.built.is_none());
    assert_eq!(machine.content.allocated(), before);
}

/// What `seek` calls data is where bytes are, and what it calls a hole reads as zeros.
fn seek(machine: &Machine, offset: u64) {
    let size = machine.oracle.size;
    let find = |offset, data| machine.content.seek(&machine.nodes, size, offset, data).unwrap();
    let data = find(offset, true);
    let hole = find(offset, false);
    if offset >= size {
        assert_eq!((data, hole), (None, None));
        return;
    }
    let hole = hole.unwrap();
    assert!(hole >= offset && hole <= size && data.is_none_or(|data| data >= offset && data < size));
    assert!(data == Some(offset) || hole == offset, "an offset is in one of them");
    let zeros_until = data.unwrap_or(size);
    assert!(
        machine.oracle.blocks.range(offset / 4096..).next().is_none_or(|(block, _)| block * 4096 + 4096 > zeros_until),
        "data in a hole"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_back_frees_exactly_and_replays(steps in proptest::collection::vec(step(), 1..60), large in any::<bool>()) {
        let mut machine = Machine::new(if large { 1 << 20 } else { 4 * 4096 });
        for (number, step) in steps.iter().enumerate() {
            run(&mut machine, number, step);
            machine.check();
        }
        machine.check_replay();
        machine.build().unwrap();
        machine.install();
        machine.checkpoint().unwrap();
        prop_assert!(machine.content.is_clean());
        machine.check();
        machine.check_replay();
    }
}
