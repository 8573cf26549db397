//! `cargo xtask install`: the tools under their real names (a cargo target cannot have a dot in its name), their manual pages and completions.

use crate::command::{root, run_cargo};
use crate::man;
use anyhow::{Context, ensure};
use clap::Args;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the target, name in use, folder.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("envoyfs", "envoyfs", "bin"),
    ("mkfs-envoyfs", "mkfs.envoyfs", "sbin"),
    ("fsck-envoyfs", "fsck.envoyfs", "sbin"),
    ("mount-envoyfs", "mount.envoyfs", "sbin"),
];
/// Shell, where it looks for what completes the arguments of a command.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/envoyfs"),
    ("zsh", "share/zsh/site-functions/_envoyfs"),
    ("fish", "share/fish/vendor_completions.d/envoyfs.fish"),
];
/// Where mount(8) looks for helpers, and nowhere else.
const HELPERS: &str = "/sbin";

#[derive(Args)]
pub struct Arguments {
    /// Where to install: PREFIX/bin, PREFIX/sbin, PREFIX/share/man.
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// Put everything below this folder instead of the root, for packages.
    #[arg(long, value_name = "FOLDER")]
    destdir: Option<PathBuf>,
    /// Take the programs from this folder instead of building them.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
}

/// Builds and copies. Files are replaced by renaming, so a program that runs goes on.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.prefix.is_absolute(), "--prefix: {} is not an absolute path", arguments.prefix.display());
    let from = match &arguments.from {
        Some(from) => from.clone(),
        None => {
            run_cargo(&["build", "--release", "--package", "envoyfs-tools"])?;
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
            target.join("release")
        }
    };
    let below = |path: &Path| match &arguments.destdir {
        Some(destdir) => destdir.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_path_buf(),
    };
    for (target, name, folder) in PROGRAMS {
        let bytes = fs::read(from.join(target)).with_context(|| from.join(target).display().to_string())?;
        put(&below(&arguments.prefix.join(folder).join(name)), &bytes, 0o755)?;
    }
    for page in man::pages()? {
        let path = arguments.prefix.join(format!("share/man/man{}", page.section)).join(&page.file);
        put(&below(&path), page.roff.as_bytes(), 0o644)?;
    }
    for (shell, path) in COMPLETIONS {
        let program = from.join("envoyfs");
        let made = Command::new(&program).args(["completions", shell]).output();
        let made = made.with_context(|| format!("running {}", program.display()))?;
        ensure!(made.status.success(), "{} makes no completions for {shell}", program.display());
        put(&below(&arguments.prefix.join(path)), &made.stdout, 0o644)?;
    }
    let helper = arguments.prefix.join("sbin/mount.envoyfs");
    let link = Path::new(HELPERS).join("mount.envoyfs");
    let same =
        |a: &Path, b: &Path| matches!((below(a).canonicalize(), below(b).canonicalize()), (Ok(a), Ok(b)) if a == b);
    if !same(&helper, &link) {
        let link = below(&link);
        fs::create_dir_all(below(Path::new(HELPERS))).with_context(|| HELPERS.to_string())?;
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).with_context(|| link.display().to_string())?;
        }
        symlink(&helper, &link).with_context(|| link.display().to_string())?;
        println!("{} -> {}", link.display(), helper.display());
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let shown = path.display().to_string();
    let folder = path.parent().with_context(|| shown.clone())?;
    fs::create_dir_all(folder).with_context(|| format!("{} (root may be needed)", folder.display()))?;
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(|| shown.clone())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).with_context(|| shown.clone())?;
    fs::rename(&new, path).with_context(|| shown.clone())?;
    println!("{shown}");
    Ok(())
}
