//! What every stage of a measurement needs: programs that must succeed, and a shell that cleans up.

use anyhow::{Context, bail, ensure};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Says what to install if one of the programs is missing.
pub fn require(programs: &[&str], packages: &str) -> anyhow::Result<()> {
    for program in programs {
        let found = Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", program]).status();
        ensure!(found.is_ok_and(|s| s.success()), "{program} is not installed (apt-get install {packages})");
    }
    Ok(())
}

/// Runs a program that must succeed; what it wrote to standard output.
pub fn call(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} could not be started"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A shell in a process group of its own that waits for the end of a pipe from this process and then runs a script: so that happens also when this process is
/// interrupted or killed.
pub struct Cleaner(Child);

impl Cleaner {
    /// Starts it; the arguments are `$1`, `$2`, ... of the script.
    pub fn start(script: &str, arguments: &[&dyn AsRef<OsStr>]) -> anyhow::Result<Self> {
        let script = format!("trap '' INT TERM HUP\ncat > /dev/null\ncd /\n{script}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "cleaner"]).stdin(Stdio::piped()).process_group(0);
        for argument in arguments {
            shell.arg(argument.as_ref());
        }
        Ok(Self(shell.spawn().context("sh could not be started")?))
    }

    /// Lets it clean up, and waits for it; whether it could.
    pub fn finish(&mut self) -> bool {
        drop(self.0.stdin.take());
        self.0.wait().is_ok_and(|status| status.success())
    }
}
