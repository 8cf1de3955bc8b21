//! What was measured, beside its budget and the peer, as a table.

use std::time::Duration;

/// One line: a number of ours and, where a peer ran, its number.
pub struct Measure {
    pub what: String,
    pub value: f64,
    pub unit: Unit,
    pub budget: &'static str,
}

/// How a number is shown and which way it is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Microseconds,
    Kilobytes,
    Megabytes,
    Percent,
    /// Of something a second; the more the better.
    PerSecond,
    /// Of something a second; the less the better.
    Rate,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Microseconds => format!("{value:.1} µs"),
            Unit::Kilobytes => format!("{value:.1} KB"),
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::PerSecond => format!("{value:.0} /s"),
            Unit::Rate => format!("{value:.1} /s"),
        }
    }

    /// How many times better ours is than the peer's.
    fn ratio(self, ours: f64, peer: f64) -> f64 {
        if self == Unit::PerSecond { ours / peer } else { peer / ours }
    }
}

/// A measured duration.
pub fn milliseconds(what: impl Into<String>, value: Duration, budget: &'static str) -> Measure {
    Measure { what: what.into(), value: value.as_secs_f64() * 1e3, unit: Unit::Milliseconds, budget }
}

/// Processor time spent for each of so many operations.
pub fn each(what: impl Into<String>, cpu: Duration, operations: u64, budget: &'static str) -> Measure {
    let value = cpu.as_secs_f64() * 1e6 / operations.max(1) as f64;
    Measure { what: what.into(), value, unit: Unit::Microseconds, budget }
}

/// So many operations in that time.
pub fn rate(what: impl Into<String>, operations: u64, wall: Duration, budget: &'static str) -> Measure {
    let value = operations as f64 / wall.as_secs_f64();
    Measure { what: what.into(), value, unit: Unit::PerSecond, budget }
}

/// A peer's version and the same measures of it.
pub type Peer = (String, Vec<Measure>);

/// A bench's outcome.
pub struct Report {
    pub ours: Vec<Measure>,
    /// A peer that fails takes nothing from what was measured of ours.
    pub peer: Option<anyhow::Result<Peer>>,
}

impl Report {
    fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref().and_then(|peer| peer.as_ref().ok())
    }

    /// The table in Markdown, its columns aligned for a terminal.
    pub fn table(&self, name: &str) -> String {
        let version = self.peer().map_or("peer", |(version, _)| version);
        let mut rows = vec![[name, "measured", "budget", version, "ratio"].map(str::to_owned)];
        for measure in &self.ours {
            let peer = self.peer().iter().flat_map(|(_, measures)| measures).find(|peer| peer.what == measure.what);
            rows.push([
                measure.what.clone(),
                measure.unit.show(measure.value),
                measure.budget.to_owned(),
                peer.map_or(String::new(), |peer| peer.unit.show(peer.value)),
                peer.map_or(String::new(), |peer| format!("{:.1} ×", measure.unit.ratio(measure.value, peer.value))),
            ]);
        }
        aligned(&rows)
    }
}

fn aligned(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut out = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(widths) {
            out.push_str(&format!("| {cell:width$} "));
        }
        out.push_str("|\n");
        if index == 0 {
            for width in widths {
                out.push_str(&format!("|{}", "-".repeat(width + 2)));
            }
            out.push_str("|\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_times_better_ours_is() {
        let ours = vec![
            each("cost", Duration::from_micros(100), 10, "≥ 5 ×"),
            rate("throughput", 300, Duration::from_secs(1), ""),
        ];
        let peer =
            vec![each("cost", Duration::from_micros(600), 10, ""), rate("throughput", 100, Duration::from_secs(1), "")];
        let table = Report { ours, peer: Some(Ok(("v1".into(), peer))) }.table("gets");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| gets       | measured | budget | v1      | ratio |");
        assert_eq!(lines[2], "| cost       | 10.0 µs  | ≥ 5 ×  | 60.0 µs | 6.0 × |");
        assert_eq!(lines[3], "| throughput | 300 /s   |        | 100 /s  | 3.0 × |");
    }
}
