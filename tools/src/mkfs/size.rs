//! Sizes with units, as people write them: `512MiB`, `2G`, `10_000_000`.

use std::fmt;
use std::str::FromStr;

/// Bytes, given with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Letter, factor with an `i` or alone (1024), factor with a `B` alone (1000).
const UNITS: [(&str, u64, u64); 6] = [
    ("k", 1 << 10, 1_000),
    ("m", 1 << 20, 1_000_000),
    ("g", 1 << 30, 1_000_000_000),
    ("t", 1 << 40, 1_000_000_000_000),
    ("p", 1 << 50, 1_000_000_000_000_000),
    ("e", 1 << 60, 1_000_000_000_000_000_000),
];

impl FromStr for Size {
    type Err = String;

    /// Digits (with `_` or one decimal fraction), then nothing, `B`, or a unit: `K`, `KiB` (1024) or `KB` (1000), and so on.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a size; write for example 512MiB, 2GiB or 1TiB");
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '_' || c == '.')).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let digits = digits.replace('_', "");
        let factor = factor(unit.trim()).ok_or_else(bad)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(|| format!("{text} is 16 EiB or more"))?;
        if !fraction.is_empty() {
            let places = u32::try_from(fraction.len()).ok().filter(|n| *n <= 9).ok_or_else(bad)?;
            let part: u64 = fraction.parse().map_err(|_| bad())?;
            let part = u128::from(part) * u128::from(factor) / u128::from(10_u64.pow(places));
            bytes = bytes.saturating_add(u64::try_from(part).map_err(|_| bad())?);
        }
        Ok(Self(bytes))
    }
}

fn factor(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let (_, binary, decimal) = UNITS.iter().find(|(letter, ..)| unit.starts_with(letter))?;
    match unit.get(1..) {
        Some("" | "i" | "ib") => Some(*binary),
        Some("b") => Some(*decimal),
        _ => None,
    }
}

impl fmt::Display for Size {
    /// In the largest binary unit in which it is at least 1; two places where it is not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = (1, "bytes");
        for next in [
            (1 << 10, "KiB"),
            (1 << 20, "MiB"),
            (1 << 30, "GiB"),
            (1 << 40, "TiB"),
            (1 << 50, "PiB"),
            (1_u64 << 60, "EiB"),
        ] {
            if self.0 >= next.0 {
                unit = next;
            }
        }
        let (factor, name) = unit;
        if self.0.is_multiple_of(factor) {
            write!(f, "{} {name}", self.0 / factor)
        } else {
            let hundredths = u128::from(self.0) * 100 / u128::from(factor);
            write!(f, "{}.{:02} {name}", hundredths / 100, hundredths % 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        let cases = [
            ("4096", 4096),
            ("10_000", 10_000),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            ("128 MiB", 128 << 20),
            ("3T", 3 << 40),
            ("1PiB", 1 << 50),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "GiB", "2X", "2GiBs", "-1", "1..5G", "99999999999T", "1.5.2G", "0x10"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert!("16EiB".parse::<Size>().unwrap_err().contains("16 EiB or more"));
        assert!("two".parse::<Size>().unwrap_err().contains("512MiB"));
    }

    #[test]
    fn sizes_are_printed_in_their_largest_unit() {
        let shown = |bytes| Size(bytes).to_string();
        assert_eq!([shown(0), shown(4096), shown(2 << 30)], ["0 bytes", "4 KiB", "2 GiB"]);
        assert_eq!(shown((1 << 30) + (1 << 29)), "1.50 GiB");
    }
}
