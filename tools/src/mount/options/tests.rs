use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn parse(line: &[&str], is_root: bool) -> Result<Settings, OptionError> {
    let line = ["mount.envoyfs", "/img", "/mnt"].iter().chain(line);
    Settings::from_arguments(&Line::parse_from(line).arguments, is_root, 8)
}

#[test]
fn root_mounts_for_everybody_and_users_without_devices_and_set_id_programs() {
    let root = parse(&[], true).unwrap().mount;
    assert_eq!((root.allow_other, root.no_dev, root.no_suid, root.threads), (true, false, false, 4));
    let user = parse(&[], false).unwrap().mount;
    assert_eq!((user.allow_other, user.no_dev, user.no_suid), (false, true, true));
    assert!(parse(&["-o", "allow_other"], false).unwrap().mount.allow_other);
}

#[test]
fn users_cannot_ask_for_devices_or_set_id_programs() {
    for option in ["dev", "suid"] {
        assert!(matches!(parse(&["-o", option], false), Err(OptionError::Value { .. })));
        assert!(parse(&["-o", option], true).is_ok());
    }
}

#[test]
fn lists_are_split_at_commas_and_later_options_win() {
    let settings = parse(&["-o", "ro,noatime,,nosuid", "-o", "threads=3,cache=1GiB,log=/l,rw"], true).unwrap();
    assert!(!settings.mount.read_only && settings.mount.no_atime && settings.mount.no_suid);
    assert_eq!((settings.mount.threads, settings.node_cache_bytes), (3, 1 << 30));
    assert_eq!(settings.log, Some(PathBuf::from("/l")));
}

#[test]
fn what_mount_and_fstab_pass_along_is_accepted() {
    let line = ["-o", "rw,relatime,user,noauto,nofail,_netdev,x-systemd.automount,comment=a", "-n", "-v", "-t", "x"];
    assert!(parse(&line, true).is_ok());
    assert!(parse(&["-r"], true).unwrap().mount.read_only);
}

#[test]
fn unknown_options_are_refused_unless_mount_said_to_ignore_them() {
    assert_eq!(parse(&["-o", "rw,wibble=1"], true), Err(OptionError::Unknown("wibble=1".into())));
    assert!(parse(&["-s", "-o", "rw,wibble=1"], true).is_ok());
}

#[test]
fn values_are_checked() {
    let sizes = ["cache=lots", "engine_cache=", "engine_cache=512KiB", "dirty=0", "dirty=much"];
    for option in sizes.into_iter().chain(["threads=0", "threads=65", "threads=x", "threads", "log="]) {
        assert!(matches!(parse(&["-o", option], true), Err(OptionError::Value { .. })), "{option}");
    }
    assert!(matches!(parse(&["-o", "remount"], true), Err(OptionError::NotOffered(..))));
    assert!(matches!(parse(&["--threads", "0"], true), Err(OptionError::Value { .. })));
    assert_eq!(parse(&["-o", "threads=2", "--threads", "5"], true).unwrap().mount.threads, 5);
}

#[test]
fn history_is_kept_only_when_asked_for_and_an_earlier_state_is_read_only() {
    let plain = parse(&[], true).unwrap();
    assert_eq!((plain.history, plain.at), (HistoryPolicy::NONE, None));
    let some = parse(&["-o", "history=20,history_age=2h"], true).unwrap().history;
    assert_eq!((some.checkpoints_max, some.age_ms_max), (20, 7_200_000));
    assert_eq!(parse(&["-o", "history_age=1min"], true).unwrap().history.checkpoints_max, 8);
    assert_eq!(parse(&["-o", "history=20,history=0"], true).unwrap().history.checkpoints_max, 0);
    let at = parse(&["-o", "at=2026-01-01T00:00:00.25Z"], true).unwrap();
    assert_eq!((at.at, at.mount.read_only), (Some(1_767_225_600_250_000_000), true));
    for bad in ["history=257", "history=-1", "history", "history_age=soon", "at=yesterday", "at=1960-01-01T00:00:00Z"] {
        assert!(matches!(parse(&["-o", bad], true), Err(OptionError::Value { .. })), "{bad}");
    }
}

#[test]
fn sizes_of_memory_reach_the_settings_of_the_engine() {
    assert_eq!(parse(&[], true).unwrap().engine, EngineSettings::default());
    let engine = parse(&["-o", "engine_cache=6MiB,dirty=48MiB"], true).unwrap().engine;
    assert_eq!((engine.segment_cache_bytes, engine.slot_map_bytes), (4 << 20, 2 << 20));
    assert_eq!((engine.dirty_bytes, engine.unpublished_objects), (48 << 20, 1 << 17));
    assert_eq!(engine.in_flight_bytes, EngineSettings::default().in_flight_bytes);
}
