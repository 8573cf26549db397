//! Nobody reads what a program prints, or it cannot be written: that is an error with an exit status, and no panic, whose 134 scripts take for a sum of fsck's.
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let image = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("full-{}.img", std::process::id()));
    let image = image.to_str().unwrap();
    let shell = |script: String| common::run("sh", &["-c", &script]);
    let (mkfs, fsck) = (env!("CARGO_BIN_EXE_mkfs-envoyfs"), env!("CARGO_BIN_EXE_fsck-envoyfs"));
    let (envoyfs, mount) = (env!("CARGO_BIN_EXE_envoyfs"), env!("CARGO_BIN_EXE_mount-envoyfs"));
    assert_eq!(
        shell(format!("{mkfs} --size 128MiB {image} > /dev/full")).code,
        1,
        "made, and told that it cannot be told"
    );
    let bench = "--directory=/dev/shm --name=a --rw=write --size=1m --ioengine=device";
    let commands = [
        format!("{fsck} -fn {image}"),
        format!("{fsck} --help"),
        format!("{envoyfs} inspect {image}"),
        format!("{envoyfs} inspect {image} log"),
        format!("{envoyfs} inspect {image} graph --json"),
        format!("{envoyfs} identity {image}"),
        format!("{envoyfs} completions bash"),
        format!("{envoyfs} bench {bench}"),
        format!("{mount} --help"),
        format!("{mount} /no/store /no/where"),
        format!("{envoyfs} status /"),
        format!("{fsck} -fn /no/store --json"),
    ];
    for command in &commands {
        for to in ["> /dev/full", "2> /dev/full", "> /dev/full 2>&1", ">&- 2>&-"] {
            let answer = shell(format!("timeout 60 {command} {to}"));
            assert!(answer.code < 64 && !answer.stderr.contains("panicked"), "{command} {to}: {answer:?}");
        }
        let piped = shell(format!("{{ timeout 60 {command}; echo $? >&2; }} | true"));
        let code = piped.stderr.lines().last().and_then(|line| line.parse::<i32>().ok());
        assert!(code.is_some_and(|code| code < 64), "{command}: {piped:?}");
    }
    std::fs::remove_file(image).unwrap();
}
