//! Options in fio's spelling. Every option is known and obeyed, or refused with its name and its section: a benchmark that leaves something out without a word measures something else.

use super::job::{Amount, BlockSizes, Distribution, Ioengine, Job, Pattern};
use super::value::{Refused, bytes, count, fraction, switch, time};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// What is obeyed, for messages.
pub const KNOWN: &[&str] = &[
    "name",
    "rw",
    "readwrite",
    "bs",
    "blocksize",
    "bsrange",
    "bssplit",
    "size",
    "offset",
    "offset_increment",
    "filename",
    "ioengine",
    "direct",
    "iodepth",
    "numjobs",
    "runtime",
    "time_based",
    "ramp_time",
    "rwmixread",
    "rwmixwrite",
    "fsync",
    "fdatasync",
    "random_distribution",
    "randseed",
    "norandommap",
    "verify",
    "verify_fatal",
    "thinktime",
    "rate_iops",
    "group_reporting",
    "stonewall",
    "wait_for_previous",
    "write_bw_log",
    "write_lat_log",
    "write_iops_log",
    "log_avg_msec",
];

/// Of these only `OPTION=VALUE` has a value; the others may have it behind a space on a command line.
const SWITCHES: &[&str] = &[
    "direct",
    "time_based",
    "norandommap",
    "verify_fatal",
    "group_reporting",
    "stonewall",
    "wait_for_previous",
    "write_bw_log",
    "write_lat_log",
    "write_iops_log",
];

/// IOs under way of one clone.
const DEPTH_MAX: u32 = 4096;

/// Does `--OPTION VALUE` mean the option with that value, as in fio?
pub fn needs_value(option: &str) -> bool {
    KNOWN.contains(&option) && !SWITCHES.contains(&option)
}

/// An option that is not obeyed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// No such option, or none that this program knows.
    #[error("[{section}] {option}: not an option of envoyfs bench{hint}; envoyfs-bench(1) lists them")]
    Unknown {
        /// Section of the job file, or `--name`.
        section: String,
        /// As written.
        option: String,
        /// What was perhaps meant.
        hint: String,
    },
    /// The value makes no sense.
    #[error("[{section}] {option}: {why}")]
    Value {
        /// Section of the job file, or `--name`.
        section: String,
        /// As written.
        option: String,
        /// What is wrong, and what to write.
        why: String,
    },
}

/// Sets one option of a job.
///
/// # Errors
/// The option is unknown or its value makes no sense.
pub fn set(job: &mut Job, section: &str, option: &str, value: Option<&str>) -> Result<(), OptionError> {
    if !KNOWN.contains(&option) {
        let hint = nearest(option).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        return Err(OptionError::Unknown { section: section.into(), option: option.into(), hint });
    }
    apply(job, option, value).map_err(|why| OptionError::Value {
        section: section.into(),
        option: option.into(),
        why,
    })?;
    job.given.retain(|(name, _)| name != option);
    job.given.push((option.into(), value.unwrap_or("1").into()));
    Ok(())
}

fn apply(job: &mut Job, option: &str, value: Option<&str>) -> Result<(), Refused> {
    let text = || value.map(str::trim).filter(|text| !text.is_empty()).ok_or_else(|| "needs a value".to_owned());
    match option {
        "name" => job.name = text()?.into(),
        "rw" | "readwrite" => {
            let name = text()?;
            job.rw = Pattern::parse(name).ok_or_else(|| {
                format!("'{name}' is none of read, write, rw, readwrite, randread, randwrite, randrw")
            })?;
        }
        "bs" | "blocksize" => pair(job, text()?, |text| Ok(BlockSizes::Fixed(block(text)?)))?,
        "bsrange" => pair(job, text()?, range)?,
        "bssplit" => pair(job, text()?, split)?,
        "size" => job.size = Some(amount(text()?)?),
        "offset" => job.offset = bytes(text()?)?,
        "offset_increment" => job.offset_increment = bytes(text()?)?,
        "filename" => job.filename = Some(file(text()?)?),
        "ioengine" => job.ioengine = Some(ioengine(text()?)?),
        "direct" => {
            if !switch(value)? {
                return Err("only direct IO is measured; leave it out or write direct=1".into());
            }
        }
        "iodepth" => {
            job.iodepth = count(text()?, 1)?;
            if job.iodepth > DEPTH_MAX {
                return Err(format!("at most {DEPTH_MAX}"));
            }
        }
        "numjobs" => job.numjobs = count(text()?, 1)?,
        "runtime" => job.runtime = Some(time(text()?, Duration::from_secs(1))?).filter(|time| !time.is_zero()),
        "time_based" => job.time_based = switch(value)?,
        "ramp_time" => job.ramp_time = time(text()?, Duration::from_secs(1))?,
        "rwmixread" => job.rwmixread = percent(text()?)?,
        "rwmixwrite" => job.rwmixread = 100 - percent(text()?)?,
        // A sync of the store is the same for both; on the device both are fdatasync.
        "fsync" | "fdatasync" => job.fsync = count(text()?, 0)?,
        "random_distribution" => job.random_distribution = distribution(text()?)?,
        "randseed" => job.randseed = text()?.parse().map_err(|_| format!("'{}' is no number", value.unwrap_or("")))?,
        "norandommap" => job.norandommap = switch(value)?,
        "verify" => {
            job.verify = match text()? {
                "crc32c" | "crc32c-intel" => true,
                "0" => false,
                other => return Err(format!("'{other}': only crc32c is offered")),
            }
        }
        "verify_fatal" => job.verify_fatal = switch(value)?,
        "thinktime" => job.thinktime = time(text()?, Duration::from_micros(1))?,
        "rate_iops" => job.rate_iops = rates(text()?)?,
        "group_reporting" => job.group_reporting = switch(value)?,
        "stonewall" | "wait_for_previous" => job.stonewall = switch(value)?,
        "write_bw_log" => job.logs.bandwidth = Some(prefix(job, value)),
        "write_lat_log" => job.logs.latency = Some(prefix(job, value)),
        "write_iops_log" => job.logs.iops = Some(prefix(job, value)),
        "log_avg_msec" => {
            job.logs.average = Some(Duration::from_millis(count(text()?, 0)?.into())).filter(|time| !time.is_zero());
        }
        _ => return Err("is listed as known and is not".into()),
    }
    Ok(())
}

/// fio splits names at a `:` that has no backslash in front.
fn file(text: &str) -> Result<PathBuf, Refused> {
    let several = text.replace("\\:", "").contains(':') && !Path::new(text).exists();
    if several {
        return Err(format!(
            "'{text}': one file or device; several are not offered, and a ':' in a name is written \\:"
        ));
    }
    Ok(text.replace("\\:", ":").into())
}

fn prefix(job: &Job, value: Option<&str>) -> String {
    value.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(&job.name).into()
}

/// `reads,writes`, or one for both.
fn pair(job: &mut Job, text: &str, parse: impl Fn(&str) -> Result<BlockSizes, Refused>) -> Result<(), Refused> {
    let mut parts = text.split(',');
    let first = parse(parts.next().unwrap_or(""))?;
    job.write_sizes = match parts.next() {
        Some(second) => parse(second)?,
        None => first.clone(),
    };
    job.read_sizes = first;
    match parts.next() {
        Some(_) => Err("there are reads and writes only: at most two values".into()),
        None => Ok(()),
    }
}

fn block(text: &str) -> Result<u32, Refused> {
    let size = bytes(text)?;
    match u32::try_from(size) {
        Ok(size) if size > 0 && size.is_multiple_of(512) && size <= 16 << 20 => Ok(size),
        _ => Err(format!("'{text}': a block is a multiple of 512, at most 16m")),
    }
}

fn range(text: &str) -> Result<BlockSizes, Refused> {
    let (low, high) = text.split_once('-').ok_or_else(|| format!("'{text}': write for example 4k-64k"))?;
    let (low, high) = (block(low)?, block(high)?);
    if low > high {
        return Err(format!("'{text}': the smaller comes first"));
    }
    Ok(BlockSizes::Range(low, high))
}

fn split(text: &str) -> Result<BlockSizes, Refused> {
    let mut parts = Vec::new();
    for part in text.split(':') {
        let (size, share) = part.split_once('/').unwrap_or((part, ""));
        let share = if share.is_empty() { None } else { Some(percent(share)?) };
        parts.push((block(size)?, share));
    }
    let sum: u32 = parts.iter().filter_map(|(_, share)| *share).sum();
    let open = u32::try_from(parts.iter().filter(|(_, share)| share.is_none()).count()).unwrap_or(u32::MAX);
    let rest = 100_u32.checked_sub(sum).ok_or_else(|| format!("'{text}': more than 100 percent"))?;
    if open == 0 && rest > 0 {
        return Err(format!("'{text}': {sum} percent; the parts must make 100"));
    }
    let each = rest.checked_div(open).unwrap_or(0);
    let left = rest - each * open;
    let mut parts: Vec<(u32, u32)> = parts.into_iter().map(|(size, share)| (size, share.unwrap_or(each))).collect();
    if let Some(last) = parts.last_mut() {
        last.1 += left;
    }
    Ok(BlockSizes::Split(parts))
}

fn amount(text: &str) -> Result<Amount, Refused> {
    match text.strip_suffix('%') {
        Some(share) => Ok(Amount::Percent(percent(share)?.max(1))),
        None => match bytes(text)? {
            0 => Err("nothing would be done".into()),
            bytes => Ok(Amount::Bytes(bytes)),
        },
    }
}

fn percent(text: &str) -> Result<u32, Refused> {
    count(text, 0).ok().filter(|share| *share <= 100).ok_or_else(|| format!("'{text}' is not 0 to 100"))
}

fn ioengine(text: &str) -> Result<Ioengine, Refused> {
    match text {
        "envoyfs" => Ok(Ioengine::Envoyfs),
        "device" => Ok(Ioengine::Device),
        other => Err(format!(
            "'{other}': it is envoyfs (the object store) or device (what is below); left out, both in turns"
        )),
    }
}

fn distribution(text: &str) -> Result<Distribution, Refused> {
    match text.split_once(':') {
        None if text == "random" => Ok(Distribution::Uniform),
        // As with fio, so that a job file means the same to both.
        Some(("zipf", theta)) => match fraction(theta, 0.0, 100.0)? {
            one if (one - 1.0).abs() < f64::EPSILON => Err("zipf:1 is none: write zipf:0.99 or zipf:1.01".into()),
            theta => Ok(Distribution::Zipf(theta)),
        },
        Some(("pareto", share)) => Ok(Distribution::Pareto(fraction(share, 0.0, 1.0)?)),
        _ => Err(format!("'{text}' is none of random, zipf:X (X > 0), pareto:X (0 < X < 1)")),
    }
}

fn rates(text: &str) -> Result<[Option<u32>; 2], Refused> {
    let one = |text: &str| if text.is_empty() { Ok(None) } else { count(text, 1).map(Some) };
    match text.split_once(',') {
        None => one(text).map(|rate| [rate; 2]),
        Some((reads, writes)) => Ok([one(reads)?, one(writes)?]),
    }
}

/// The known option that begins so, or that differs least, if it differs little.
fn nearest(option: &str) -> Option<&'static str> {
    let longer = KNOWN.iter().copied().find(|known| option.len() > 2 && known.starts_with(option));
    let (distance, near) = KNOWN.iter().map(|known| (distance(option, known), *known)).min()?;
    longer.or_else(|| (distance <= 2 && distance * 3 <= option.len()).then_some(near))
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(left != right);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(diagonal + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(options: &[(&str, &str)]) -> Result<Job, OptionError> {
        let mut job = Job { name: "j".into(), ..Job::default() };
        for (option, value) in options {
            set(&mut job, "j", option, Some(value))?;
        }
        Ok(job)
    }

    #[test]
    fn an_unknown_option_is_named_with_its_section_and_what_was_perhaps_meant() {
        let error = job(&[("iodepht", "4")]).unwrap_err().to_string();
        assert!(error.contains("[j] iodepht") && error.contains("did you mean iodepth"), "{error}");
        let error = job(&[("zonemode", "zbd")]).unwrap_err().to_string();
        assert!(error.contains("[j] zonemode") && !error.contains("did you mean"), "{error}");
        let error = job(&[("rate", "4k")]).unwrap_err().to_string();
        assert!(error.contains("did you mean rate_iops"), "{error}");
    }

    #[test]
    fn every_known_option_does_something() {
        for option in KNOWN {
            let mut job = Job::default();
            let refused = apply(&mut job, option, Some("?")).err();
            assert_ne!(refused.as_deref(), Some("is listed as known and is not"), "{option}");
        }
    }

    #[test]
    fn sizes_of_reads_and_writes_may_differ() {
        let job = job(&[("bs", "4k,64k")]).unwrap();
        assert_eq!((job.read_sizes, job.write_sizes), (BlockSizes::Fixed(4096), BlockSizes::Fixed(65536)));
    }

    #[test]
    fn a_colon_in_a_name_is_written_as_in_fio() {
        let named = job(&[("filename", "/dev/disk/by-path/pci-0000\\:01")]).unwrap().filename;
        assert_eq!(named, Some("/dev/disk/by-path/pci-0000:01".into()));
    }

    #[test]
    fn a_split_is_completed_to_a_hundred_percent_or_refused() {
        let split = |text| job(&[("bssplit", text)]).map(|job| job.read_sizes);
        let parts = vec![(4096, 50), (8192, 25), (16384, 25)];
        assert_eq!(split("4k/50:8k/:16k/"), Ok(BlockSizes::Split(parts)));
        assert!(split("4k/50:8k/49").is_err());
        assert!(split("4k/50:8k/51").is_err());
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused() {
        for (option, value) in [
            ("direct", "0"),
            ("ioengine", "libaio"),
            ("verify", "md5"),
            ("rw", "trim"),
            ("bs", "1000"),
            ("bsrange", "8k-4k"),
            ("random_distribution", "normal:5"),
            ("random_distribution", "pareto:1.5"),
            ("random_distribution", "zipf:1"),
            ("size", "0"),
            ("iodepth", "0"),
            ("iodepth", "4097"),
            ("filename", "/x:/y"),
            ("rwmixread", "101"),
            ("rate_iops", "0"),
        ] {
            let error = job(&[(option, value)]).unwrap_err();
            assert!(
                matches!(&error, OptionError::Value { section, option: named, .. } if section == "j" && named == option),
                "{error}"
            );
        }
    }
}
