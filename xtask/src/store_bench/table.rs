//! Rows: what was measured, what is asked for, and whether that is reached.

use super::Sizes;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Which side of the bar is good.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}

/// One line of the table.
pub struct Row {
    pub name: String,
    pub conditions: String,
    /// What the number is.
    pub unit: &'static str,
    /// One a round.
    pub values: Vec<f64>,
    pub bar: Bar,
    /// The two sides, or what else is worth knowing.
    pub detail: String,
}

impl Row {
    pub fn failed(name: &str, error: &anyhow::Error) -> Self {
        Self {
            name: name.into(),
            conditions: "not measured".into(),
            unit: "",
            values: Vec::new(),
            bar: Bar::AtLeast(0.0),
            detail: format!("{error:#}"),
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Of the rounds.
    pub fn median(&self) -> Option<f64> {
        median(&self.values)
    }

    fn passed(&self) -> &'static str {
        match (self.median(), self.bar) {
            (None, _) => "not measured",
            (_, Bar::None) => "",
            (Some(median), Bar::AtLeast(bar)) if median >= bar => "pass",
            (Some(median), Bar::AtMost(bar)) if median <= bar => "pass",
            _ => "FAIL",
        }
    }
}

/// The one in the middle, or between the two that are: sides that exchange their devices have an even number of rounds.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The table.
pub fn text(rows: &[Row], sizes: &Sizes) -> String {
    let mut out = String::new();
    // A string does not refuse.
    let _ = writeln!(out, "\n{}; {} rounds, medians (lowest to highest).\n", machine(), sizes.rounds);
    let _ = writeln!(out, "| bar | conditions | measured | wanted | | |\n|---|---|---|---|---|---|");
    for row in rows {
        let values = row.sorted();
        let spread = match (values.first(), values.last()) {
            (Some(low), Some(high)) if values.len() > 1 => format!(" ({} to {})", short(*low), short(*high)),
            _ => String::new(),
        };
        let median = row.median().map(|value| format!("{} {}", short(value), row.unit)).unwrap_or_default();
        let wanted = match row.bar {
            Bar::AtLeast(bar) => format!(">= {}", short(bar)),
            Bar::AtMost(bar) => format!("<= {}", short(bar)),
            Bar::None => String::new(),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {median}{spread} | {wanted} | {} | {} |",
            row.name,
            row.conditions,
            row.passed(),
            row.detail
        );
    }
    out
}

/// The same for programs.
pub fn json(rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (kind, bar) = match row.bar {
                Bar::AtLeast(bar) => ("at least", Some(bar)),
                Bar::AtMost(bar) => ("at most", Some(bar)),
                Bar::None => ("none", None),
            };
            json!({
                "name": row.name, "conditions": row.conditions, "unit": row.unit, "values": row.values,
                "median": row.median(), "bar": kind, "wanted": bar, "result": row.passed(), "detail": row.detail,
            })
        })
        .collect();
    json!({ "machine": machine(), "rows": rows })
}

/// Three digits that mean something.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let (kernel, info, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/cpuinfo"), read("/proc/loadavg"));
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let load = load.split_ascii_whitespace().next().unwrap_or("?").to_owned();
    format!("Linux {}, {processors} x {}, load {load}", kernel.trim(), model.unwrap_or("unknown processor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f64], bar: Bar) -> Row {
        Row {
            name: "n".into(),
            conditions: String::new(),
            unit: "x",
            values: values.to_vec(),
            bar,
            detail: String::new(),
        }
    }

    #[test]
    fn the_median_decides_and_what_was_not_measured_never_passes() {
        assert_eq!(row(&[0.5, 2.0, 1.0], Bar::AtLeast(1.0)).passed(), "pass");
        assert_eq!(row(&[0.5, 0.6, 3.0], Bar::AtLeast(1.0)).passed(), "FAIL");
        assert_eq!(row(&[0.5, 0.6, 3.0], Bar::AtMost(0.6)).passed(), "pass");
        assert_eq!(
            row(&[2.0, 0.5, 0.9, 1.0], Bar::AtLeast(1.0)).passed(),
            "FAIL",
            "0.95 is between the two in the middle"
        );
        assert_eq!(row(&[], Bar::AtLeast(1.0)).passed(), "not measured");
        assert_eq!(row(&[f64::NAN], Bar::AtLeast(1.0)).passed(), "FAIL");
        assert_eq!(Row::failed("n", &anyhow::anyhow!("why")).passed(), "not measured");
    }
}
