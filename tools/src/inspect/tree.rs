//! What a view shows, as a value: written once, printed for people (aligned, with units) and for programs (JSON in the same order, plain numbers).

use crate::mkfs::size::Size;
use crate::output::Printable;
use envoyfs_layout::{Hlc, Timestamp};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Fields in the order in which they are shown. Names are those of the JSON and do not change; people see spaces for `_`, and no `_bytes`.
pub type Fields = Vec<(&'static str, Tree)>;

/// A value to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Nothing there.
    None,
    /// Yes or no.
    Flag(bool),
    /// A number without a unit, or an offset.
    Number(u64),
    /// A number that object ids have in hexadecimal.
    Id(u64),
    /// Bytes.
    Bytes(u64),
    /// A checksum or hash.
    Hex(u64),
    /// A hybrid logical clock.
    Clock(Hlc),
    /// A time of a file.
    Time(Timestamp),
    /// Words.
    Text(String),
    /// Lines of text, as they are: maps and dumps. In JSON one string.
    Lines(String),
    /// Several.
    List(Vec<Tree>),
    /// Fields.
    Map(Fields),
}

impl From<u64> for Tree {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}
impl From<u32> for Tree {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}
impl From<usize> for Tree {
    fn from(value: usize) -> Self {
        Self::Number(value as u64)
    }
}
impl From<i64> for Tree {
    fn from(value: i64) -> Self {
        u64::try_from(value).map_or_else(|_| Self::Text(value.to_string()), Self::Number)
    }
}
impl From<bool> for Tree {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}
impl From<&str> for Tree {
    fn from(value: &str) -> Self {
        Self::Text(value.to_string())
    }
}
impl From<String> for Tree {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
impl From<Hlc> for Tree {
    fn from(value: Hlc) -> Self {
        Self::Clock(value)
    }
}
impl From<envoyfs_layout::Oid> for Tree {
    fn from(value: envoyfs_layout::Oid) -> Self {
        Self::Text(value.to_string())
    }
}
impl From<envoyfs_layout::Lsn> for Tree {
    fn from(value: envoyfs_layout::Lsn) -> Self {
        Self::Number(value.0)
    }
}

/// A name of a file, or other bytes that mostly are text.
#[must_use]
pub fn text(bytes: &[u8]) -> Tree {
    Tree::Text(String::from_utf8_lossy(bytes).into_owned())
}

/// An error where a value should be.
pub fn error(what: impl std::fmt::Display) -> Tree {
    Tree::Map(vec![("error", Tree::Text(what.to_string()))])
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_none(),
            Self::Flag(value) => to.serialize_bool(*value),
            Self::Number(value) | Self::Id(value) | Self::Bytes(value) => to.serialize_u64(*value),
            Self::Hex(value) => to.serialize_str(&format!("{value:#x}")),
            // Exact, and longer than the numbers that JSON is sure to keep.
            Self::Clock(hlc) => to.serialize_str(&format!("{hlc:?}")),
            Self::Time(time) => to.serialize_str(&format!("{}.{:09}", time.seconds, time.nanoseconds)),
            Self::Text(text) | Self::Lines(text) => to.serialize_str(text),
            Self::List(list) => to.collect_seq(list),
            Self::Map(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

fn utc(milliseconds: u64) -> String {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
    // Years beyond 9999 do not fit the format, and a clock of a damaged field may say anything.
    let at = at.filter(|_| milliseconds < 253_402_300_800_000);
    at.map_or_else(|| format!("{milliseconds} ms"), |at| humantime::format_rfc3339_millis(at).to_string())
}

/// Plain for people: a time with its counter.
#[must_use]
pub fn clock(hlc: Hlc) -> String {
    // What is not known yet is as small as it can be.
    if hlc.milliseconds() == 0 { "none".into() } else { format!("{}.{:04x}", utc(hlc.milliseconds()), hlc.0 & 0xffff) }
}

fn time(time: &Timestamp) -> String {
    let milliseconds = u64::try_from(time.seconds).ok().and_then(|seconds| seconds.checked_mul(1000));
    let milliseconds = milliseconds.map(|ms| ms.saturating_add(u64::from(time.nanoseconds / 1_000_000)));
    milliseconds.map_or_else(|| format!("{}.{:09} s", time.seconds, time.nanoseconds), utc)
}

fn label(name: &str) -> String {
    name.strip_suffix("_bytes").unwrap_or(name).replace('_', " ")
}

impl Tree {
    fn is_flat(&self) -> bool {
        match self {
            Self::Lines(_) | Self::Map(_) => false,
            Self::List(list) => {
                list.len() <= 8 && list.iter().all(|item| item.is_flat() && !matches!(item, Self::List(_)))
            }
            _ => true,
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::None => "-".into(),
            Self::Flag(value) => if *value { "yes" } else { "no" }.into(),
            Self::Number(value) => value.to_string(),
            Self::Id(value) if *value < 10 => value.to_string(),
            Self::Id(value) => format!("{value} ({value:#x})"),
            Self::Bytes(value) => Size(*value).to_string(),
            Self::Hex(value) => format!("{value:#010x}"),
            Self::Clock(hlc) => clock(*hlc),
            Self::Time(at) => time(at),
            // Names and labels are what others have chosen.
            Self::Text(text) => Printable(text).to_string(),
            Self::Lines(text) => text.clone(),
            Self::List(list) if list.is_empty() => "none".into(),
            Self::List(list) => list.iter().map(Self::line).collect::<Vec<_>>().join(", "),
            Self::Map(fields) => match fields.as_slice() {
                [("error", what)] => format!("BAD: {}", what.line()),
                fields => fields
                    .iter()
                    .map(|(name, value)| format!("{}={}", name, value.word()))
                    .collect::<Vec<_>>()
                    .join(" "),
            },
        }
    }

    /// As [`Tree::line`], in quotes or brackets if it would not be one word.
    fn word(&self) -> String {
        match self {
            Self::Text(text) if text.is_empty() || text.contains(|c: char| " =\"\\".contains(c) || c.is_control()) => {
                format!("{text:?}")
            }
            Self::Bytes(value) | Self::Id(value) => value.to_string(),
            Self::List(list) => format!("[{}]", list.iter().map(Self::word).collect::<Vec<_>>().join(" ")),
            Self::Map(_) => format!("{{{}}}", self.line()),
            other => other.line(),
        }
    }

    /// For people: aligned, indented, ending in a newline.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, indent: usize) {
        match self {
            Self::Map(fields) => {
                let flat = |value: &Self| {
                    value.is_flat() || matches!(value, Self::Map(fields) if matches!(fields.as_slice(), [("error", _)]))
                };
                let width = fields.iter().filter(|(_, value)| flat(value)).map(|(name, _)| label(name).len()).max();
                let width = width.unwrap_or(0);
                for (name, value) in fields {
                    let name = label(name);
                    if flat(value) {
                        let _ = writeln!(out, "{:indent$}{name:<width$}  {}", "", value.line());
                    } else {
                        let _ = writeln!(out, "{:indent$}{name}", "");
                        value.write(out, indent + 2);
                    }
                }
            }
            Self::List(list) if !list.is_empty() => {
                if !table(list, out, indent) {
                    for item in list {
                        if item.is_flat() {
                            let _ = writeln!(out, "{:indent$}{}", "", item.line());
                        } else {
                            item.write(out, indent);
                        }
                    }
                }
            }
            Self::Lines(text) => {
                for line in text.lines() {
                    let _ = writeln!(out, "{:indent$}{line}", "");
                }
            }
            other => {
                let _ = writeln!(out, "{:indent$}{}", "", other.line());
            }
        }
    }
}

/// Rows with the same fields under one line of headings; numbers to the right. `false`: they are not rows.
fn table(list: &[Tree], out: &mut String, indent: usize) -> bool {
    let rows: Vec<&Fields> =
        list.iter().filter_map(|item| if let Tree::Map(fields) = item { Some(fields) } else { None }).collect();
    let Some(first) = rows.first() else { return false };
    let same = |row: &&Fields| row.len() == first.len() && row.iter().zip(*first).all(|(a, b)| a.0 == b.0);
    if rows.len() != list.len() || !rows.iter().all(same) || first.len() < 2 {
        return false;
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|(_, value)| value.line()).collect()).collect();
    let columns: Vec<(String, usize, bool)> = first
        .iter()
        .enumerate()
        .map(|(at, (name, value))| {
            let name = label(name);
            let widest = cells.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
            let width = widest.unwrap_or(0).max(name.len());
            (name, width, matches!(value, Tree::Number(_) | Tree::Bytes(_)))
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, (_, width, right)) in cells.zip(&columns) {
            let _ = if *right { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
        }
        let _ = writeln!(out, "{:indent$}{}", "", text.trim_end());
    };
    line(&mut columns.iter().map(|(name, ..)| name.as_str()));
    for row in &cells {
        line(&mut row.iter().map(String::as_str));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        Tree::Map(vec![
            ("label", "forks".into()),
            ("size_bytes", Tree::Bytes(256 << 20)),
            ("formatted", Tree::Clock(Hlc::from_milliseconds(1_700_000_000_000))),
            (
                "rows",
                Tree::List(vec![
                    Tree::Map(vec![("at", 7_u64.into()), ("name", "a".into())]),
                    Tree::Map(vec![("at", 4096_u64.into()), ("name", "bcd".into())]),
                ]),
            ),
        ])
    }

    #[test]
    fn people_get_aligned_rows_with_units() {
        let expected = "label      forks\nsize       256 MiB\nformatted  2023-11-14T22:13:20.000Z.0000\nrows\n    at  name\n     7  a\n  4096  bcd\n";
        assert_eq!(sample().render(), expected);
    }

    #[test]
    fn programs_get_the_same_order_and_plain_numbers() {
        let json = serde_json::to_string(&sample()).unwrap();
        let expected = r#"{"label":"forks","size_bytes":268435456,"formatted":"1700000000000.0000","rows":[{"at":7,"name":"a"},{"at":4096,"name":"bcd"}]}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn clocks_of_damaged_fields_are_shown_as_they_are() {
        assert!(clock(Hlc(u64::MAX)).starts_with("281474976710655 ms"));
        assert_eq!(time(&Timestamp { seconds: -5, nanoseconds: 1 }), "-5.000000001 s");
    }
}
