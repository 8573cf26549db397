//! Running the tools on images in a temporary directory.

pub mod mounted;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a tool answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Says that a test does not run for lack of root, FUSE, loop devices or a program. Where `ENVOYFS_NO_SKIP` says that all of it is there (`.ci/run` does), that is a failure.
pub fn skip(what: impl std::fmt::Display) {
    cannot(&what);
    assert!(std::env::var_os("ENVOYFS_NO_SKIP").is_none(), "not run: {what}");
}

/// The same for what even such a machine may lack. `cargo xtask test` lists both at its end.
pub fn cannot(what: impl std::fmt::Display) {
    println!("SKIPPED {what}");
    if let Some(list) = std::env::var_os("ENVOYFS_SKIPPED") {
        use std::io::Write;
        let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).unwrap();
        list.write_all(format!("{}\n", what.to_string().trim()).as_bytes()).unwrap();
    }
}

pub fn run(program: &str, arguments: &[&str]) -> Answer {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn mkfs(arguments: &[&str]) -> Answer {
    run(env!("CARGO_BIN_EXE_mkfs-envoyfs"), arguments)
}

pub fn fsck(arguments: &[&str]) -> Answer {
    run(env!("CARGO_BIN_EXE_fsck-envoyfs"), arguments)
}

/// Images on a real file system: direct IO and preallocation as in use.
pub struct Images(tempfile::TempDir);

impl Images {
    pub fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }
    /// A formatted store of 128 MiB.
    pub fn store(&self, name: &str) -> String {
        let path = self.path(name);
        let answer = mkfs(&["--size", "128MiB", &path]);
        assert_eq!(answer.code, 0, "{answer:?}");
        path
    }
    /// A file of zeros with some bytes in it.
    pub fn file(&self, name: &str, size: u64, at: u64, bytes: &[u8]) -> String {
        use std::os::unix::fs::FileExt as _;
        let path = self.path(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(bytes, at).unwrap();
        path
    }
}

/// Bytes from a seed: no pattern that a signature could match, and the same in every run.
pub fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()[3]
        })
        .collect()
}

/// Runs `act` and asserts that the file's length and bytes are as before.
pub fn unchanged<T>(path: &str, act: impl FnOnce() -> T) -> T {
    let digest = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        (bytes.len(), envoyfs_layout::checksum::hash64(&bytes))
    };
    let path = PathBuf::from(path);
    let before = digest(&path);
    let result = act();
    assert_eq!(digest(&path), before, "{} was changed", path.display());
    result
}
