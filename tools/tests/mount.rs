//! Real mounts through the kernel: what users see, from `mount.envoyfs` to `envoyfs umount`.
//!
//! Needs /dev/fuse; without it every test says that it was skipped. Commands that a kernel request could hang are run
//! with a time limit, and a mount is taken away by force when its test ends.
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]
#![allow(clippy::indexing_slicing, reason = "tests compare parts of what they wrote themselves")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs, limited, text};
use common::{Answer, run};
use rustix::fs::{CWD, RenameFlags, SeekFrom, XattrFlags, renameat_with};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Somebody who owns nothing.
const STRANGER: u32 = 65534;

/// A shell as a user who owns nothing; `$0` is the directory.
fn stranger(script: &str, directory: &Path) -> Answer {
    let output = Command::new("sh").args(["-c", script, text(directory)]).uid(STRANGER).gid(STRANGER).output().unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i / 7 % 251).unwrap() ^ seed).collect()
}

#[test]
fn what_the_store_counts_is_shown_as_text_that_ends() {
    let Some(bench) = Bench::new("metrics") else { return };
    fs::write(bench.path("file"), pattern(300_000, 1)).unwrap();
    File::open(bench.path("file")).unwrap().sync_all().unwrap();
    let answer = envoyfs(&["status", "--metrics", text(&bench.at)]);
    assert_eq!(answer.code, 0, "{answer:?}");
    // Longer than one answer of the daemon can be.
    assert!(answer.stdout.len() > 12288 && answer.stdout.ends_with("# EOF\n"), "{}", answer.stdout);
    let value = |name: &str| -> f64 {
        let line = answer.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{}", answer.stdout)).parse().unwrap()
    };
    assert!(value("envoyfs_streams_data_bytes_total") >= 290_000.0);
    assert!(value("envoyfs_log_commit_seconds_count") + value("envoyfs_log_groups_total") >= 1.0);
    assert!(value("envoyfs_device_flush_seconds_sum") > 0.0);
    let lines: Vec<&str> = answer.stdout.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), lines.iter().collect::<BTreeSet<_>>().len(), "a line is there twice");
    bench.end();
}

#[test]
fn memory_given_at_mount_is_shown_and_little_of_it_is_enough() {
    let Some(bench) = Bench::new("memory") else { return };
    let bytes = |name: &str| bench.status()["memory"][name].as_u64().unwrap();
    let (default, nodes) = (bytes("engine_bytes_max"), bytes("node_cache_bytes_max"));
    assert_eq!(nodes, 128 << 20);
    bench.umount();
    bench.mount(&["-o", "cache=2MiB,engine_cache=1MiB,dirty=1MiB"]);
    let small = bytes("engine_bytes_max");
    assert!(small + (60 << 20) < default, "{small} bytes, and by default {default}");
    let parts: u64 =
        bench.status()["memory"]["engine_parts"].as_object().unwrap().values().map(|part| part.as_u64().unwrap()).sum();
    assert!(parts >= small, "{parts}");
    for number in 0..3000 {
        fs::write(bench.path(&format!("{number}")), pattern(3000, 1)).unwrap();
    }
    assert_eq!(names(&bench.at).len(), 3000);
    let human = envoyfs(&["status", text(&bench.at)]).stdout;
    assert!(human.contains("memory       nodes ") && human.contains(" of 2 MiB; beside them at most "), "{human}");
    assert!(bytes("node_cache_bytes") <= 2 << 20);
    bench.end();
}

#[test]
fn files_directories_links_and_attributes_are_the_same_after_a_remount() {
    let Some(bench) = Bench::new("remount") else { return };
    let big = pattern(3_000_001, 1);
    fs::create_dir_all(bench.path("a/b/c")).unwrap();
    fs::write(bench.path("a/small"), b"hello").unwrap();
    fs::write(bench.path("a/big"), &big).unwrap();
    fs::rename(bench.path("a/small"), bench.path("a/b/moved")).unwrap();
    fs::hard_link(bench.path("a/b/moved"), bench.path("a/linked")).unwrap();
    symlink("b/moved", bench.path("a/symbolic")).unwrap();
    fs::set_permissions(bench.path("a/b"), fs::Permissions::from_mode(0o710)).unwrap();
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(5, 6));
    File::options().write(true).open(bench.path("a/big")).unwrap().set_times(times).unwrap();
    rustix::fs::setxattr(bench.path("a/big"), "user.note", b"kept", XattrFlags::CREATE).unwrap();
    let fifo = run("mkfifo", &[text(&bench.path("a/fifo"))]);
    assert_eq!(fifo.code, 0, "{fifo:?}");
    for round in 0..2 {
        assert_eq!(names(&bench.path("a")), ["b", "big", "fifo", "linked", "symbolic"].map(String::from).into());
        assert_eq!(fs::read(bench.path("a/big")).unwrap(), big, "round {round}");
        assert_eq!(fs::read(bench.path("a/symbolic")).unwrap(), b"hello");
        let linked = fs::metadata(bench.path("a/linked")).unwrap();
        assert_eq!((linked.nlink(), linked.len()), (2, 5));
        assert_eq!(linked.ino(), fs::metadata(bench.path("a/b/moved")).unwrap().ino());
        assert_eq!(fs::metadata(bench.path("a/b")).unwrap().mode() & 0o7777, 0o710);
        let stat = fs::metadata(bench.path("a/big")).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (5, 6));
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(bench.path("a/big"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
        if round == 0 {
            bench.remount();
        }
    }
}

#[test]
fn a_directory_of_ten_thousand_names_is_read_once_each_while_names_are_deleted() {
    let Some(bench) = Bench::new("readdir") else { return };
    let directory = bench.path("many");
    fs::create_dir(&directory).unwrap();
    let all: BTreeSet<String> = (0..10_000).map(|i| format!("name-{i:05}")).collect();
    for name in &all {
        File::create_new(directory.join(name)).unwrap();
    }
    assert_eq!(names(&directory), all);
    let mut seen = BTreeSet::new();
    let mut deleted = BTreeSet::new();
    for (count, entry) in fs::read_dir(&directory).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} came twice");
        if count % 2 == 0 {
            fs::remove_file(directory.join(&name)).unwrap();
            deleted.insert(name);
        }
    }
    assert_eq!(seen, all, "a name that was there all the time was not listed");
    assert_eq!(names(&directory), &all - &deleted);
    // As ls -l: with attributes, from a cold cache.
    bench.remount();
    let listed = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
    assert_eq!((listed, names(&directory).len()), (0, 5000));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_was_synced_survives_a_killed_daemon() {
    let Some(bench) = Bench::new("kill") else { return };
    let data = pattern(200_000, 3);
    let mut file = File::create(bench.path("synced")).unwrap();
    file.write_all(&data).unwrap();
    file.sync_all().unwrap();
    fs::create_dir(bench.path("directory")).unwrap();
    fs::write(bench.path("directory/file"), b"by the barrier").unwrap();
    let answer = envoyfs(&["sync", text(&bench.at)]);
    assert_eq!(answer.code, 0, "{answer:?}");
    bench.end_daemon(Signal::KILL);
    drop(file);
    // The mount of a dead daemon can be taken away too.
    bench.umount();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.path("synced")).unwrap(), data);
    assert_eq!(fs::read(bench.path("directory/file")).unwrap(), b"by the barrier");
}

#[test]
fn a_fork_holds_the_same_and_then_goes_its_own_way() {
    let Some(bench) = Bench::new("fork") else { return };
    let data = pattern(1_500_000, 5);
    fs::create_dir_all(bench.path("a/deep")).unwrap();
    fs::write(bench.path("a/deep/data"), &data).unwrap();
    fs::write(bench.path("a/file"), b"original").unwrap();
    // A name that the kernel knows not to exist.
    assert!(!bench.path("b").exists());
    let answer = envoyfs(&["fork", text(&bench.path("a")), text(&bench.path("b"))]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(fs::read(bench.path("b/deep/data")).unwrap(), data);
    fs::write(bench.path("b/file"), b"changed in the fork").unwrap();
    fs::write(bench.path("a/new"), b"only here").unwrap();
    OpenOptions::new().write(true).open(bench.path("b/deep/data")).unwrap().write_all_at(b"XXXX", 4096).unwrap();
    let one = envoyfs(&["fork", text(&bench.path("a/file")), text(&bench.path("a/one"))]);
    assert_eq!(one.code, 0, "{one:?}");
    for _ in 0..2 {
        assert_eq!(fs::read(bench.path("a/file")).unwrap(), b"original");
        assert_eq!(fs::read(bench.path("a/one")).unwrap(), b"original");
        assert_eq!(fs::read(bench.path("b/file")).unwrap(), b"changed in the fork");
        assert!(!bench.path("b/new").exists());
        assert_eq!(fs::read(bench.path("a/deep/data")).unwrap(), data);
        assert_eq!(&fs::read(bench.path("b/deep/data")).unwrap()[4096..4100], b"XXXX");
        bench.remount();
    }
    let again = envoyfs(&["fork", text(&bench.path("a")), text(&bench.path("b"))]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("the name is taken"), "{again:?}");
}

#[test]
fn a_snapshot_keeps_what_was_and_can_be_deleted() {
    let Some(bench) = Bench::new("snapshot") else { return };
    fs::create_dir(bench.path("a")).unwrap();
    fs::write(bench.path("a/file"), b"before").unwrap();
    let answer = envoyfs(&["snapshot", text(&bench.path("a")), "one"]);
    assert_eq!((answer.code, answer.stdout.trim()), (0, text(&bench.path("a/.snap/one"))));
    fs::write(bench.path("a/file"), b"after").unwrap();
    fs::create_dir(bench.path("a/.snap/two")).unwrap();
    bench.remount();
    assert_eq!(names(&bench.path("a")), ["file"].map(String::from).into(), "snapshots are not listed");
    assert_eq!(names(&bench.path("a/.snap")), ["one", "two"].map(String::from).into());
    assert_eq!(fs::read(bench.path("a/.snap/one/file")).unwrap(), b"before");
    assert_eq!(fs::read(bench.path("a/.snap/two/file")).unwrap(), b"after");
    let error = fs::write(bench.path("a/.snap/one/file"), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::remove_dir(bench.path("a/.snap/one")).map_err(|error| error.kind()), Ok(()));
    let answer = envoyfs(&["delete", "--yes", text(&bench.path("a/.snap/two"))]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(names(&bench.path("a/.snap")).is_empty());
    // A fork of a snapshot is writable.
    fs::create_dir(bench.path("a/.snap/three")).unwrap();
    let answer = envoyfs(&["fork", text(&bench.path("a/.snap/three")), text(&bench.path("c"))]);
    assert_eq!(answer.code, 0, "{answer:?}");
    fs::write(bench.path("c/file"), b"writable").unwrap();
    assert_eq!(fs::read(bench.path("a/.snap/three/file")).unwrap(), b"after");
}

#[test]
fn a_tree_is_deleted_at_once_and_only_after_a_confirmation() {
    let Some(bench) = Bench::new("delete") else { return };
    fs::create_dir_all(bench.path("a/b/c")).unwrap();
    fs::write(bench.path("a/b/c/file"), b"x").unwrap();
    let refused = envoyfs(&["delete", text(&bench.path("a"))]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert_eq!(fs::read(bench.path("a/b/c/file")).unwrap(), b"x");
    let answer = envoyfs(&["delete", "-y", text(&bench.path("a"))]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(!bench.path("a").exists() && !bench.path("a/b/c/file").exists());
    assert!(names(&bench.at).is_empty());
    fs::create_dir(bench.path("a")).unwrap();
    assert!(names(&bench.path("a")).is_empty());
}

#[test]
fn umount_returns_when_the_store_is_closed_and_a_second_mount_is_refused() {
    let Some(bench) = Bench::new("umount") else { return };
    fs::write(bench.path("file"), pattern(400_000, 9)).unwrap();
    let second = bench.try_mount(&[]);
    assert_eq!(second.code, 32, "{second:?}");
    assert!(second.stderr.contains("is in use"), "{second:?}");
    bench.umount();
    assert!(!bench.is_mounted());
    // Needs the device for itself, which it only gets when the daemon has let go of it.
    let check = common::fsck(&["-fn", &bench.store]);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(bench.log().contains("closed clean=true"), "{}", bench.log());
    let again = envoyfs(&["umount", text(&bench.at)]);
    assert_eq!(again.code, 3, "{again:?}");
}

#[test]
fn a_busy_mount_is_not_unmounted_and_says_so() {
    let Some(bench) = Bench::new("busy") else { return };
    let file = File::create(bench.path("open")).unwrap();
    let answer = envoyfs(&["umount", text(&bench.at)]);
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(bench.is_mounted());
    drop(file);
    bench.umount();
}

#[test]
fn sigterm_closes_the_store_even_while_files_are_open() {
    let Some(bench) = Bench::new("sigterm") else { return };
    let mut file = File::create(bench.path("open")).unwrap();
    file.write_all(b"written before").unwrap();
    bench.end_daemon(Signal::TERM);
    assert!(bench.log().contains("closed clean=true"), "{}", bench.log());
    assert!(file.write_all(b"after").is_err());
    drop(file);
    assert!(!bench.is_mounted());
    bench.mount(&[]);
    assert_eq!(fs::read(bench.path("open")).unwrap(), b"written before");
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let Some(bench) = Bench::new("read-only") else { return };
    fs::write(bench.path("file"), b"x").unwrap();
    bench.umount();
    bench.mount(&["-o", "ro"]);
    assert_eq!(fs::read(bench.path("file")).unwrap(), b"x");
    let error = fs::write(bench.path("other"), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(bench.status()["read_only"], true);
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    let Some(bench) = Bench::new("unlinked") else { return };
    let mut file = File::options().read(true).write(true).create_new(true).open(bench.path("file")).unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file(bench.path("file")).unwrap();
    fs::write(bench.path("file"), b"another").unwrap();
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"still here");
    file.write_all(b", and longer").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 22);
    // A rename over an open file keeps its data until close, too.
    let open = File::open(bench.path("file")).unwrap();
    fs::write(bench.path("third"), b"third").unwrap();
    fs::rename(bench.path("third"), bench.path("file")).unwrap();
    let mut text = String::new();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::read(bench.path("file")).unwrap().as_slice()), ("another", &b"third"[..]));
    drop((file, open));
    bench.remount();
    assert_eq!(names(&bench.at), ["file"].map(String::from).into());
}

#[test]
fn direct_io_of_any_alignment_and_synchronous_writes_work() {
    let Some(bench) = Bench::new("direct") else { return };
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let mut options = File::options();
    options.read(true).write(true).create_new(true).custom_flags(flags);
    let file = options.open(bench.path("direct")).unwrap();
    let data = pattern(10_000, 11);
    file.write_all_at(&data, 0).unwrap();
    file.write_all_at(b"unaligned", 4097).unwrap();
    let mut expected = data;
    expected[4097..4106].copy_from_slice(b"unaligned");
    let mut read = vec![0; 10_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, expected);
    assert_eq!(fs::read(bench.path("direct")).unwrap(), expected, "through the page cache");
    // Synchronous writes are durable when they return: nothing of the file may be missing after a kill.
    bench.end_daemon(Signal::KILL);
    drop(file);
    bench.umount();
    bench.mount(&[]);
    assert_eq!(fs::read(bench.path("direct")).unwrap(), expected);
}

#[test]
fn holes_copies_exchanges_and_truncation_work() {
    let Some(bench) = Bench::new("calls") else { return };
    let file = File::options().read(true).write(true).create_new(true).open(bench.path("sparse")).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    let hole = rustix::fs::seek(&file, SeekFrom::Hole(0)).unwrap();
    let data = rustix::fs::seek(&file, SeekFrom::Data(hole)).unwrap();
    assert!(hole <= 8192 && data > hole && data <= 1 << 20, "hole at {hole}, data at {data}");
    assert!(rustix::fs::seek(&file, SeekFrom::Data(2 << 20)).is_err());
    let copy = File::create_new(bench.path("copy")).unwrap();
    let (mut from, mut to, length) = (0, 0, file.metadata().unwrap().len());
    while from < length {
        let left = usize::try_from(length - from).unwrap();
        let count = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), left).unwrap();
        assert!(count > 0);
    }
    assert_eq!(fs::read(bench.path("copy")).unwrap(), fs::read(bench.path("sparse")).unwrap());
    file.set_len(3).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(fs::read(bench.path("sparse")).unwrap(), b"sta\0\0\0");
    let (one, two) = (bench.path("sparse"), bench.path("copy"));
    assert!(renameat_with(CWD, &one, CWD, &two, RenameFlags::NOREPLACE).is_err());
    assert!(renameat_with(CWD, &one, CWD, &two, RenameFlags::WHITEOUT).is_err());
    renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(two).unwrap(), b"sta\0\0\0");
    let space = rustix::fs::statvfs(&bench.at).unwrap();
    assert!(space.f_blocks > 0 && space.f_bavail > 0 && space.f_bavail <= space.f_bfree);
}

#[test]
fn extended_attributes_are_sized_listed_and_removed() {
    let Some(bench) = Bench::new("xattr") else { return };
    let path = bench.path("file");
    fs::write(&path, b"").unwrap();
    rustix::fs::setxattr(&path, "user.a", b"value", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.b", b"", XattrFlags::empty()).unwrap();
    assert!(rustix::fs::setxattr(&path, "user.a", b"x", XattrFlags::CREATE).is_err());
    assert!(rustix::fs::setxattr(&path, "user.c", b"x", XattrFlags::REPLACE).is_err());
    assert_eq!(rustix::fs::getxattr_query(&path, "user.a").unwrap(), 5, "size 0 asks for the length");
    let mut short = [0; 2];
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut short), Err(rustix::io::Errno::RANGE));
    let mut list = [0; 64];
    let length = rustix::fs::listxattr(&path, &mut list).unwrap();
    let listed: BTreeSet<&[u8]> = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    assert_eq!(listed, [&b"user.a"[..], b"user.b"].into());
    rustix::fs::removexattr(&path, "user.a").unwrap();
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut short), Err(rustix::io::Errno::NODATA));
}

#[test]
fn strangers_lose_set_id_bits_and_cannot_use_control_commands_on_what_is_not_theirs() {
    let Some(bench) = Bench::new("strangers") else { return };
    if !rustix::process::geteuid().is_root() {
        common::skip("strangers: only root can act as somebody else");
        return;
    }
    let open_to_all = |name: &str, mode| {
        fs::set_permissions(bench.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    open_to_all("", 0o777);
    for name in ["written", "truncated", "kept"] {
        fs::write(bench.path(name), b"program").unwrap();
        open_to_all(name, 0o6777);
    }
    let answer = stranger("echo more >> \"$0/written\" && : > \"$0/truncated\"", &bench.at);
    assert_eq!(answer.code, 0, "{answer:?}");
    let mode = |name: &str| fs::metadata(bench.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("written"), mode("truncated"), mode("kept")), (0o777, 0o777, 0o6777));
    // Root keeps the bits when writing, but nobody does with a new owner.
    OpenOptions::new().append(true).open(bench.path("kept")).unwrap().write_all(b"more").unwrap();
    File::create(bench.path("kept")).unwrap().set_len(3).unwrap();
    assert_eq!(mode("kept"), 0o6777);
    std::os::unix::fs::chown(bench.path("kept"), Some(STRANGER), None).unwrap();
    assert_eq!(mode("kept"), 0o777);
    assert_eq!(fs::metadata(bench.path("truncated")).unwrap().len(), 0);

    fs::create_dir_all(bench.path("mine/below")).unwrap();
    // From inside the mount: the build directory may be closed to the stranger.
    let tool = bench.path("tool");
    fs::copy(env!("CARGO_BIN_EXE_envoyfs"), &tool).unwrap();
    open_to_all("tool", 0o755);
    let fork = stranger("\"$0/tool\" fork \"$0/mine\" \"$0/theirs\"", &bench.at);
    assert_eq!(fork.code, 5, "{fork:?}");
    let delete = stranger("\"$0/tool\" delete -y \"$0/mine\"", &bench.at);
    assert_eq!(delete.code, 5, "{delete:?}");
    assert!(bench.path("mine/below").exists() && !bench.path("theirs").exists());
    let own = "mkdir \"$0/own\" && echo x > \"$0/own/file\" && \"$0/tool\" fork \"$0/own\" \"$0/copy\" \
        && \"$0/tool\" delete -y \"$0/own\" && cat \"$0/copy/file\"";
    let own = stranger(own, &bench.at);
    assert_eq!((own.code, own.stdout.as_str()), (0, "x\n"), "{own:?}");
    open_to_all("", 0o755);
    let closed = stranger("\"$0/tool\" fork \"$0/copy\" \"$0/copy2\"", &bench.at);
    assert_eq!(closed.code, 5, "no permission to add names: {closed:?}");
}

#[test]
fn files_made_in_a_set_group_id_directory_inherit_its_group() {
    let Some(bench) = Bench::new("setgid") else { return };
    let directory = bench.path("shared");
    fs::create_dir(&directory).unwrap();
    if std::os::unix::fs::chown(&directory, None, Some(1234)).is_err() {
        common::skip("setgid: only root can give files away");
        return;
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::write(directory.join("file"), b"").unwrap();
    fs::create_dir(directory.join("below")).unwrap();
    assert_eq!(fs::metadata(directory.join("file")).unwrap().gid(), 1234);
    let below = fs::metadata(directory.join("below")).unwrap();
    assert_eq!((below.gid(), below.mode() & 0o2000), (1234, 0o2000));
}

#[test]
fn two_processes_that_fork_into_each_others_directories_do_not_stop_each_other() {
    let Some(bench) = Bench::new("crossing forks") else { return };
    for name in ["a", "b"] {
        fs::create_dir_all(bench.path(name).join("tree")).unwrap();
        fs::write(bench.path(name).join("tree/file"), name).unwrap();
    }
    std::thread::scope(|scope| {
        for (own, other) in [("a", "b"), ("b", "a")] {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..20 {
                    let target = bench.path(other).join(format!("from-{own}-{round}"));
                    // The kernel keeps that there is no such name, and holds the directory while it looks.
                    assert!(!target.exists());
                    let answer = envoyfs(&["fork", text(&bench.path(own).join("tree")), text(&target)]);
                    assert_eq!(answer.code, 0, "{answer:?}");
                    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), own);
                    let answer = envoyfs(&["delete", "-y", text(&target)]);
                    assert_eq!(answer.code, 0, "{answer:?}");
                    assert!(!target.exists());
                }
            });
        }
    });
    bench.umount();
}

#[test]
fn mount_says_what_is_wrong_with_its_arguments() {
    let Some(bench) = Bench::new("arguments") else { return };
    bench.umount();
    let wrong = bench.try_mount(&["-o", "wibble"]);
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.contains("unknown mount option 'wibble'"), "{wrong:?}");
    let mount = |store: &str, at: &str| limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[store, at]);
    let missing = mount(&bench.images.path("nothing"), text(&bench.at));
    assert_eq!(missing.code, 32, "{missing:?}");
    assert!(missing.stderr.contains("no such store"), "{missing:?}");
    for place in [bench.images.path("nowhere"), "/etc/passwd".into()] {
        // Recovery would have published something.
        let nowhere = common::unchanged(&bench.store, || mount(&bench.store, &place));
        assert_eq!(nowhere.code, 32, "{nowhere:?}");
        assert!(nowhere.stderr.contains("mount point"), "{nowhere:?}");
        assert_eq!(nowhere.stderr.lines().count(), 1, "it is told once: {nowhere:?}");
    }
    // Without a log of its own the daemon says nothing when all is well.
    let well = mount(&bench.store, text(&bench.at));
    assert!(well.code == 0 && well.stdout.is_empty() && well.stderr.is_empty(), "{well:?}");
    bench.umount();
    let foreign = mount(&bench.images.file("zeros", 1 << 28, 0, b""), text(&bench.at));
    assert_eq!(foreign.code, 32, "{foreign:?}");
    assert_eq!(foreign.stderr.lines().count(), 1, "it is told once: {foreign:?}");
    let elsewhere = envoyfs(&["status", "/tmp"]);
    assert_eq!(elsewhere.code, 3, "{elsewhere:?}");
    // After all these failures the store can still be mounted.
    bench.mount(&[]);
}

#[test]
fn a_read_only_mount_replays_forks_and_snapshots_and_writes_nothing() {
    let Some(bench) = Bench::new("read-only replay") else { return };
    fs::create_dir_all(bench.path("tree/inner")).unwrap();
    fs::write(bench.path("tree/inner/large"), vec![7; 70_000]).unwrap();
    fs::write(bench.path("tree/inner/small"), b"before").unwrap();
    assert_eq!(envoyfs(&["fork", text(&bench.path("tree")), text(&bench.path("fork"))]).code, 0);
    assert_eq!(envoyfs(&["snapshot", text(&bench.path("tree")), "s"]).code, 0);
    fs::write(bench.path("fork/inner/small"), b"after").unwrap();
    assert_eq!(envoyfs(&["sync", text(&bench.at)]).code, 0);
    bench.end_daemon(Signal::KILL);
    drop(run("umount", &["-l", text(&bench.at)]));
    let image = fs::read(&bench.store).unwrap();

    bench.mount(&["-o", "ro"]);
    assert_eq!(fs::read(bench.path("tree/inner/small")).unwrap(), b"before");
    assert_eq!(fs::read(bench.path("fork/inner/small")).unwrap(), b"after");
    assert_eq!(fs::read(bench.path("fork/inner/large")).unwrap(), vec![7; 70_000]);
    assert_eq!(fs::read(bench.path("tree/.snap/s/inner/small")).unwrap(), b"before");
    bench.umount();
    assert!(fs::read(&bench.store).unwrap() == image, "a read-only mount changed the image");
    bench.mount(&[]);
    assert_eq!(fs::read(bench.path("fork/inner/small")).unwrap(), b"after");
    bench.end();
}
