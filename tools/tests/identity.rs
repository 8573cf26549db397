//! Identities of stores: copies are told from each other, on real mounts (skipped where there is no FUSE).
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs, limited, text};
use common::{Images, fsck, mkfs, run};
use std::fs;
use std::path::PathBuf;

fn identity(store: &str) -> String {
    let answer = envoyfs(&["identity", store]);
    assert_eq!(answer.code, 0, "{answer:?}");
    answer.stdout.trim().to_owned()
}

#[test]
fn a_store_shows_the_identity_that_it_was_made_with_and_a_new_one_changes_nothing_else() {
    let images = Images::new();
    let store = images.path("a.img");
    let first = "b6d4ab96-2a34-4dd1-8f55-0a8f1c4e0001";
    assert_eq!(mkfs(&["--size", "128MiB", "--uuid", first, &store]).code, 0);
    assert_eq!(identity(&store), first);
    let answer = envoyfs(&["identity", "--new", "--json", &store]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let said: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let second = said.get("identity").and_then(serde_json::Value::as_str).unwrap();
    assert_eq!(said.get("before").and_then(serde_json::Value::as_str), Some(first));
    assert_ne!(second, first);
    assert_eq!(identity(&store), second);
    assert_eq!(fsck(&["-fn", &store]).code, 0);
    let nothing = images.path("nothing.img");
    fs::write(&nothing, vec![0; 1 << 20]).unwrap();
    for arguments in [&["identity", nothing.as_str()][..], &["identity", "--new", &nothing]] {
        let answer = envoyfs(arguments);
        assert!(answer.code == 1 && answer.stderr.contains("is not an envoyfs store"), "{answer:?}");
    }
    assert!(fs::read(&nothing).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_copy_is_not_mounted_beside_its_original_until_it_has_an_identity_of_its_own() {
    let Some(bench) = Bench::new("identity") else { return };
    fs::write(bench.path("file"), b"of both").unwrap();
    bench.umount();
    let copy = bench.images.path("copy.img");
    fs::copy(&bench.store, &copy).unwrap();
    bench.mount(&[]);
    fs::write(bench.path("file"), b"of one").unwrap();
    let at = PathBuf::from(bench.images.path("copy"));
    fs::create_dir(&at).unwrap();
    let mount = |options: &[&str]| {
        limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&[copy.as_str(), text(&at)][..], options].concat())
    };
    for options in [&[][..], &["-o", "ro"]] {
        let answer = mount(options);
        assert_eq!(answer.code, 32, "{answer:?}");
        // The other is named by its image and its mount point, and the next step by its command.
        for part in [bench.store.as_str(), text(&bench.at), &format!("envoyfs identity --new {copy}")] {
            assert!(answer.stderr.contains(part), "{part}: {answer:?}");
        }
    }
    // The one that is mounted keeps its identity.
    let before = identity(&bench.store);
    let answer = envoyfs(&["identity", "--new", &bench.store]);
    assert!(answer.code == 4 && answer.stderr.contains("is mounted"), "{answer:?}");
    assert_eq!((identity(&bench.store), identity(&copy)), (before.clone(), before.clone()));

    assert_eq!(envoyfs(&["identity", "--new", &copy]).code, 0);
    assert_eq!(identity(&bench.store), before);
    let answer = mount(&[]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let both = [fs::read(bench.path("file")).unwrap(), fs::read(at.join("file")).unwrap()];
    let answer = envoyfs(&["umount", text(&at)]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(both, [b"of one".to_vec(), b"of both".to_vec()]);
    assert_eq!(fsck(&["-fn", &copy]).code, 0);
    bench.end();
}

/// The lock of an image does not see a mount through a loop device: both would write.
#[test]
fn an_image_is_not_mounted_through_a_loop_device_beside_itself() {
    let Some(bench) = Bench::new("loop device") else { return };
    let made = run("losetup", &["--find", "--show", &bench.store]);
    if made.code != 0 {
        common::skip(format!("identity: loop device: {}", made.stderr));
        return;
    }
    let device = made.stdout.trim().to_owned();
    let at = bench.images.path("twice");
    fs::create_dir(&at).unwrap();
    let mounted = limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&device, &at]);
    let renewed = envoyfs(&["identity", "--new", &device]);
    assert_eq!(run("losetup", &["--detach", &device]).code, 0);
    assert!(mounted.code == 32 && mounted.stderr.contains(text(&bench.at)), "{mounted:?}");
    assert!(renewed.code == 4 && renewed.stderr.contains(text(&bench.at)), "{renewed:?}");
    bench.end();
}
