//! Values as fio writes them: sizes (`4k` is 4096), times (`10s`, `500ms`), booleans, and lists of them.

use std::time::Duration;

/// Why a value was refused, to be put behind the option's name.
pub type Refused = String;

/// Bytes: decimal or `0x` digits, then nothing, `b`, or one of `k m g t p` with or without a `b`. `Ki` is refused: fio reads it as 1000 and `K` as 1024, everybody else the other way round.
pub fn bytes(text: &str) -> Result<u64, Refused> {
    let bad = || format!("'{text}' is not a size; write for example 4k, 1m or 2g (powers of 1024)");
    let lower = text.trim().to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).map_err(|_| bad());
    }
    let split = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(split);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        "p" | "pb" => 50,
        _ if unit.ends_with('i') || unit.ends_with("ib") => {
            return Err(format!(
                "'{text}': fio reads Ki as 1000 and K as 1024; write k, m, g or t, which are powers of 1024"
            ));
        }
        _ => return Err(bad()),
    };
    let count: u64 = digits.parse().map_err(|_| bad())?;
    count.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is more than 16 EiB"))
}

/// A time; `unit` is what a bare number counts.
pub fn time(text: &str, unit: Duration) -> Result<Duration, Refused> {
    let bad = || format!("'{text}' is not a time; write for example 500us, 20ms, 10s, 5m, 2h or 1d");
    let lower = text.trim().to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let (digits, suffix) = lower.split_at(split);
    let unit = match suffix {
        "" => unit,
        "us" | "usec" => Duration::from_micros(1),
        "ms" | "msec" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(86400),
        _ => return Err(bad()),
    };
    let count: u32 = digits.parse().map_err(|_| bad())?;
    unit.checked_mul(count).ok_or_else(bad)
}

/// A count, at least `least`.
pub fn count(text: &str, least: u32) -> Result<u32, Refused> {
    match text.trim().parse::<u32>() {
        Ok(count) if count >= least => Ok(count),
        _ => Err(format!("'{text}' is not a whole number from {least} on")),
    }
}

/// Nothing, 1 or 0.
pub fn switch(text: Option<&str>) -> Result<bool, Refused> {
    match text.map(str::trim) {
        None | Some("" | "1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => Err(format!("'{other}' is neither 1 nor 0")),
    }
}

/// A finite number above `low` and below `high`.
pub fn fraction(text: &str, low: f64, high: f64) -> Result<f64, Refused> {
    match text.trim().parse::<f64>() {
        Ok(value) if value > low && value < high => Ok(value),
        _ => Err(format!("'{text}' is not a number between {low} and {high}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_the_ambiguous_suffix_is_refused() {
        let cases = [("4k", 4096), ("4K", 4096), ("1m", 1 << 20), ("2gb", 2 << 30), ("0x1000", 4096), ("512", 512)];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        assert!(bytes("4KiB").unwrap_err().contains("1000"));
        for text in ["", "k", "4x", "-4k", "4.5k", "99999999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_time_counts_the_unit_of_its_option() {
        assert_eq!(time("10", Duration::from_secs(1)), Ok(Duration::from_secs(10)));
        assert_eq!(time("10", Duration::from_micros(1)), Ok(Duration::from_micros(10)));
        assert_eq!(time("5m", Duration::from_micros(1)), Ok(Duration::from_secs(300)));
        assert_eq!(time("20ms", Duration::from_secs(1)), Ok(Duration::from_millis(20)));
        assert!(time("ten", Duration::from_secs(1)).is_err());
    }
}
