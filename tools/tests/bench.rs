//! `envoyfs bench` as a user runs it: what it refuses, what it reports, and that fio's own tools read it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Answer, Images, noise, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

fn bench(images: &Images, arguments: &[&str]) -> Answer {
    let directory = format!("--directory={}", images.path(""));
    let all: Vec<&str> = ["bench", &directory].into_iter().chain(arguments.iter().copied()).collect();
    run(env!("CARGO_BIN_EXE_envoyfs"), &all)
}

/// Every place of a key, with array indexes and numbers in keys left out.
fn keys(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = format!("{path}/{key}");
                keys(value, &path, out);
                out.insert(path);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| keys(value, path, out)),
        _ => {}
    }
}

fn key_set(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    keys(&serde_json::from_str(text).unwrap(), "", &mut out);
    // Options are those of the job; a disk is listed where the images lie on one.
    out.retain(|key| !key.starts_with("/global options/") && !key.starts_with("/jobs/job options/"));
    out
}

const MIXED: [&str; 7] =
    ["--name=mixed", "--rw=randrw", "--size=4m", "--fdatasync=8", "--output-format=json", "--rounds=1", "--bs=4k"];

#[test]
fn the_json_has_every_key_of_fios() {
    let images = Images::new();
    let answer = bench(&images, &MIXED);
    assert_eq!(answer.code, 0, "{answer:?}");
    let own = key_set(&answer.stdout);
    let mut theirs = key_set(include_str!("fixtures/fio-3.33.json"));
    if !own.contains("/disk_util/name") {
        theirs.retain(|key| !key.starts_with("/disk_util/"));
    }
    let missing: Vec<_> = theirs.difference(&own).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let added: Vec<_> = own.difference(&theirs).collect();
    let known = |key: &str| {
        ["/envoyfs version", "/jobs/engine", "/jobs/error_text", "/jobs/verify_errors"].contains(&key)
            || key.ends_with("_sectors")
    };
    assert!(added.iter().all(|key| known(key)), "{added:?}");

    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    let jobs = report["jobs"].as_array().unwrap();
    assert_eq!(jobs.iter().map(|job| job["engine"].as_str().unwrap()).collect::<Vec<_>>(), ["envoyfs", "device"]);
    for job in jobs {
        let (reads, writes) = (job["read"]["total_ios"].as_u64().unwrap(), job["write"]["total_ios"].as_u64().unwrap());
        assert_eq!(reads + writes, 1024, "the size is done: {job}");
        assert_eq!(job["sync"]["total_ios"].as_u64().unwrap(), writes / 8);
        assert_eq!(job["write"]["io_bytes"].as_u64().unwrap(), writes * 4096);
        assert!(job["read"]["clat_ns"]["percentile"]["99.000000"].as_u64().unwrap() > 0);
    }
}

/// The same with the fio of this machine, if it has one.
#[test]
fn the_json_has_every_key_of_the_installed_fio() {
    let images = Images::new();
    let file = format!("--filename={}", images.path("fio.img"));
    let arguments = [
        "--name=mixed",
        "--rw=randrw",
        "--size=4m",
        "--fdatasync=8",
        "--output-format=json",
        "--direct=1",
        "--bs=4k",
        &file,
    ];
    let Ok(fio) = Command::new("fio").args(arguments).output() else {
        return common::skip("bench: fio is not installed; compared with the stored report only");
    };
    assert!(fio.status.success());
    let answer = bench(&images, &MIXED);
    let mut theirs = key_set(&String::from_utf8(fio.stdout).unwrap());
    let own = key_set(&answer.stdout);
    if !own.contains("/disk_util/name") {
        theirs.retain(|key| !key.starts_with("/disk_util/"));
    }
    // Newer versions add keys; the layout is that of 3.33.
    let stored = key_set(include_str!("fixtures/fio-3.33.json"));
    let missing: Vec<_> = theirs.difference(&own).filter(|key| stored.contains(*key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn options_that_are_not_known_are_errors_with_their_section() {
    let images = Images::new();
    let file = images.path("job.fio");
    std::fs::write(&file, "[global]\nrw=read\n[one]\nsize=1m\nzonemode=zbd\n").unwrap();
    let answer = bench(&images, &[&file]);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("job.fio:5") && answer.stderr.contains("[one] zonemode"), "{answer:?}");
    let answer = bench(&images, &["--name=two", "--rw=read", "--buffered=1"]);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("[two] buffered"), "{answer:?}");
    assert_eq!(bench(&images, &["--output-format=xml"]).code, 2);
}

#[test]
fn a_device_that_holds_something_is_only_read() {
    let images = Images::new();
    // The magic number of ext4, and fields that confirm it.
    let path = images.file("ext4.img", 600 << 20, 1080, &[0x53, 0xEF, 1, 0]);
    let file = format!("--filename={path}");
    let before = std::fs::read(&path).unwrap().len();
    for engine in ["--ioengine=device", "--ioengine=envoyfs"] {
        let answer = bench(&images, &["--name=w", "--rw=write", "--size=1m", engine, &file]);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.stderr.contains("ext") && answer.stderr.contains("--force"), "{answer:?}");
    }
    let answer = bench(&images, &["--name=r", "--rw=read", "--size=1m", "--ioengine=device", &file]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let after = std::fs::read(&path).unwrap();
    assert_eq!((after.len(), &after[1080..1082]), (before, &[0x53, 0xEF][..]));
    assert!(after[..1080].iter().all(|byte| *byte == 0));
    let answer = bench(&images, &["--name=w", "--rw=write", "--size=1m", "--ioengine=envoyfs", &file, "--force"]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn a_file_of_unknown_data_is_only_overwritten_with_force() {
    let images = Images::new();
    let path = images.file("precious.img", 600 << 20, 300 << 20, &noise(2, 8192));
    let file = format!("--filename={path}");
    for engine in [&["--ioengine=device"][..], &["--ioengine=envoyfs"], &[]] {
        let answer = bench(&images, &[&["--name=w", "--rw=write", "--size=1m", &file], engine].concat());
        assert_eq!(answer.code, 1, "{engine:?}: {answer:?}");
        assert!(answer.stderr.contains("is not empty") && answer.stderr.contains("--force"), "{answer:?}");
    }
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes[300 << 20..].starts_with(&noise(2, 8192)) && bytes[..1 << 20].iter().all(|byte| *byte == 0));
    let write = ["--name=w", "--rw=write", "--size=1m", "--ioengine=device", &file, "--force"];
    assert_eq!(bench(&images, &write).code, 0);
    let zeros = format!("--filename={}", images.file("zeros.img", 16 << 20, 0, b""));
    let answer = bench(&images, &["--name=w", "--rw=write", "--size=1m", "--ioengine=device", &zeros]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn somebodys_store_is_not_overwritten_and_a_scratch_store_is_used_again() {
    let images = Images::new();
    let store = images.store("store.img");
    let file = format!("--filename={store}");
    let answer = bench(&images, &["--name=w", "--rw=randread", "--size=1m", "--ioengine=envoyfs", &file]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("envoyfs"), "{answer:?}");

    let file = format!("--filename={}", images.path("scratch.img"));
    let common = ["--size=8m", "--bs=16k", "--verify=crc32c", "--ioengine=envoyfs", "--output-format=json", &file];
    let job = |rw| bench(&images, &[&["--name=j", rw][..], &common].concat());
    assert_eq!(job("--rw=randwrite").code, 0);
    let answer = job("--rw=randread");
    assert_eq!(answer.code, 0, "{answer:?}");
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(report["jobs"][0]["read"]["total_ios"], 512);
    assert_eq!(report["jobs"][0]["verify_errors"], 0, "the blocks of the first run are there, with their headers");
}

#[test]
fn verify_finds_damage_on_the_bare_device() {
    let images = Images::new();
    let path = images.path("raw.img");
    let file = format!("--filename={path}");
    let common = ["--size=1m", "--bs=4k", "--verify=crc32c", "--ioengine=device", &file];
    let job = |rw| bench(&images, &[&["--name=j", rw][..], &common].concat());
    assert_eq!(job("--rw=write").code, 0);
    assert_eq!(job("--rw=read").code, 0);
    {
        use std::os::unix::fs::FileExt as _;
        let image = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        image.write_all_at(&noise(1, 64), 7 * 4096 + 100).unwrap();
    }
    let answer = job("--rw=read");
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("block at 28672") && answer.stderr.contains("1 blocks"), "{answer:?}");
}

#[test]
fn a_wrong_block_that_is_read_in_the_ramp_time_fails_the_job_too() {
    let images = Images::new();
    let path = images.path("raw.img");
    let file = format!("--filename={path}");
    let common = ["--size=1m", "--bs=4k", "--verify=crc32c", "--ioengine=device", &file];
    assert_eq!(bench(&images, &[&["--name=j", "--rw=write"][..], &common].concat()).code, 0);
    {
        use std::os::unix::fs::FileExt as _;
        let image = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        image.write_all_at(&noise(1, 64), 100).unwrap();
    }
    // The first block is read at once, the last a quarter of a second later.
    let read = ["--name=j", "--rw=read", "--rate_iops=1000", "--ramp_time=100ms", "--output-format=json"];
    let answer = bench(&images, &[&read[..], &common].concat());
    assert_eq!(answer.code, 1, "{answer:?}");
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(report["jobs"][0]["verify_errors"], 1);
    assert!(report["jobs"][0]["read"]["total_ios"].as_u64().unwrap() < 256, "the ramp is not counted: {report}");
}

#[test]
fn fios_plotting_tool_reads_the_logs() {
    let images = Images::new();
    let prefix = images.path("log");
    let (bandwidth, latency) = (format!("--write_bw_log={prefix}"), format!("--write_lat_log={prefix}"));
    let job = ["--name=j", "--rw=randrw", "--size=4m", "--log_avg_msec=20", "--rate_iops=4000", &bandwidth, &latency];
    let answer = bench(&images, &[&job[..], &["--ioengine=envoyfs"]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    for name in ["bw", "lat", "slat", "clat"] {
        let text = std::fs::read_to_string(format!("{prefix}_{name}.1.log")).unwrap();
        let mut last = 0;
        for line in text.lines() {
            let fields: Vec<u64> = line.split(", ").map(|field| field.parse().unwrap()).collect();
            assert!(fields.len() == 5 && fields[0] >= last && fields[2] <= 1, "{name}: {line}");
            last = fields[0];
        }
        assert!(last >= 100, "{name}: half of 1024 IOs, 4000 a second, take 128 ms: {last}");
    }
    // fio's own tool needs Debian's Python and its module six. (fiologparser of 3.33 does not read the five columns that fio 3.33 writes.)
    let mut tool = Command::new("/usr/bin/python3");
    tool.args(["/usr/bin/fio2gnuplot", "-b", "-k"]).current_dir(images.path(""));
    let Ok(output) = tool.output() else { return common::skip("bench: python3 is not installed") };
    if String::from_utf8_lossy(&output.stderr).contains("No") && !output.status.success() {
        return common::skip(format!("bench: fio2gnuplot: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let average = std::fs::read_to_string(images.path("result.average")).unwrap_or_else(|_| panic!("{output:?}"));
    let value: f64 = average.split_ascii_whitespace().last().unwrap().parse().unwrap();
    let text = std::fs::read_to_string(format!("{prefix}_bw.1.log")).unwrap();
    let rates: Vec<f64> = text.lines().map(|line| line.split(", ").nth(1).unwrap().parse().unwrap()).collect();
    let sum: f64 = rates.iter().sum();
    assert!((value * rates.len() as f64 - sum).abs() < sum / 100.0, "{average} of {rates:?}");
    // KiB a second in windows of 20 ms, rounded down: 4 MiB in all.
    assert!((4000.0..=4096.0).contains(&(sum / 50.0)), "{rates:?}");
}

#[test]
fn jobs_that_make_no_sense_are_refused_without_a_run() {
    let images = Images::new();
    let arguments: [(&[&str], &str); 6] = [
        (&["--bs=1000"], "a multiple of 512"),
        (&["--bs=1k"], "blocks of 4k"),
        (&["--size=1"], "no block fits"),
        (&["--filename=/x:/y"], "one file or device"),
        (&["--numjobs=100000"], "at most 4096"),
        (&["--iodepth=100000"], "at most 4096"),
    ];
    for (options, why) in arguments {
        for parse_only in [&[][..], &["--parse-only"]] {
            let all = [&["--name=a", "--rw=randread", "--size=16m"][..], options, parse_only].concat();
            let answer = bench(&images, &all);
            assert!(answer.code == 1 && answer.stderr.contains(why), "{all:?}: {answer:?}");
        }
    }
    let answer = bench(&images, &["--parse-only", "--name", "a", "--rw", "randread", "--size", "1m", "--time_based=0"]);
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""), "{answer:?}");
}

#[test]
fn a_run_that_is_stopped_reports_what_was_done_and_ends_as_fio_does() {
    let images = Images::new();
    let directory = format!("--directory={}", images.path(""));
    let program = env!("CARGO_BIN_EXE_envoyfs");
    let job = ["--name=a", "--rw=randread", "--size=1m", "--ioengine=device", "--runtime=600", "--time_based"];
    // In the foreground, or the program gets the signal twice: by itself, and with its group.
    let timeout = ["--foreground", "--preserve-status", "-s", "INT", "3", program, "bench", &directory];
    let answer = run("timeout", &[&timeout[..], &job].concat());
    assert!(answer.code == 128 && answer.stdout.contains("read: IOPS="), "{answer:?}");
}

#[test]
fn blocks_that_were_never_written_with_headers_are_not_told_one_by_one() {
    let images = Images::new();
    let path = images.file("raw.img", 16 << 20, 0, b"");
    let file = format!("--filename={path}");
    let job = ["--name=j", "--rw=read", "--size=8m", "--bs=4k", "--verify=crc32c", "--ioengine=device", &file];
    let answer = bench(&images, &job);
    assert!(answer.code == 1 && answer.stderr.contains("2048 blocks were not what was written"), "{answer:?}");
    assert!(answer.stderr.contains("none has a header") && answer.stderr.lines().count() < 110, "{answer:?}");
}

#[test]
fn a_report_does_not_take_the_place_of_a_store() {
    let images = Images::new();
    let store = images.store("store.img");
    let before = std::fs::read(&store).unwrap();
    let (output, report) = (format!("--output={store}"), images.path("report"));
    let job = ["--name=r", "--rw=read", "--size=1m", "--ioengine=device"];
    let answer = bench(&images, &[&job[..], &[&output]].concat());
    assert!(answer.code == 1 && answer.stderr.contains("contains: envoyfs store"), "{answer:?}");
    assert!(std::fs::read(&store).unwrap() == before);
    // An older report is no loss.
    for _ in 0..2 {
        assert_eq!(bench(&images, &[&job[..], &[&format!("--output={report}")]].concat()).code, 0);
    }
}

#[test]
fn a_report_that_could_not_be_written_is_refused_before_anything_is_measured() {
    let images = Images::new();
    let (directory, missing) = (format!("--directory={}", images.path("")), images.path("missing/report"));
    let program = env!("CARGO_BIN_EXE_envoyfs");
    let job = ["--name=a", "--rw=randread", "--size=1m", "--runtime=600", "--time_based"];
    let arguments = [&["20", program, "bench", &directory, "--output", &missing][..], &job].concat();
    let answer = run("timeout", &arguments);
    assert!(answer.code == 1 && answer.stderr.contains("cannot write"), "{answer:?}");
}
