//! Figures of a run: samples per case and target, their medians, the table and the JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// All samples.
#[derive(Debug)]
pub struct Report {
    targets: Vec<String>,
    rounds: usize,
    cases: Vec<Case>,
    failures: Vec<(String, String, String)>,
}

#[derive(Debug)]
struct Case {
    name: String,
    unit: &'static str,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Case {
    fn median(&self, target: &str) -> Option<f64> {
        median(self.samples.get(target)?)
    }
}

impl Report {
    /// Nothing measured yet.
    pub fn new(targets: Vec<String>, rounds: usize) -> Self {
        Self { targets, rounds, cases: Vec::new(), failures: Vec::new() }
    }

    /// Adds a sample.
    pub fn add(&mut self, case: &str, unit: &'static str, target: &str, value: f64) {
        if !self.cases.iter().any(|known| known.name == case) {
            self.cases.push(Case { name: case.to_owned(), unit, samples: BTreeMap::new() });
        }
        if let Some(known) = self.cases.iter_mut().find(|known| known.name == case) {
            known.samples.entry(target.to_owned()).or_default().push(value);
        }
    }

    /// Notes that a group could not be done.
    pub fn fail(&mut self, group: &str, target: &str, reason: String) {
        self.failures.push((group.to_owned(), target.to_owned(), reason));
    }

    /// Whether every group was done on every target.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// For people: medians, and after each target but the last its ratio to the last.
    pub fn table(&self) -> String {
        let last = self.targets.last().map_or("", String::as_str);
        let mut rows = vec![self.heading(last)];
        for case in &self.cases {
            let mut row = vec![case.name.clone(), case.unit.to_owned()];
            for target in &self.targets {
                row.push(case.median(target).map_or_else(|| "-".to_owned(), figure));
                if target != last {
                    row.push(self.ratio(case, target).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
                }
            }
            rows.push(row);
        }
        let mut text = align(&rows);
        for (group, target, reason) in &self.failures {
            text.push_str(&format!("failed: {group} on {target}: {reason}\n"));
        }
        text
    }

    fn heading(&self, last: &str) -> Vec<String> {
        let mut row = vec![format!("median of {}", self.rounds), String::new()];
        for target in &self.targets {
            row.push(target.clone());
            if target != last {
                row.push(format!("/ {last}"));
            }
        }
        row
    }

    fn ratio(&self, case: &Case, target: &str) -> Option<f64> {
        let reference = case.median(self.targets.last()?)?;
        Some(case.median(target)? / reference)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let results: serde_json::Map<String, Value> = self
                    .targets
                    .iter()
                    .filter_map(|target| {
                        let samples = case.samples.get(target)?;
                        let ratio = self.ratio(case, target);
                        Some((
                            target.clone(),
                            json!({"median": median(samples), "samples": samples, "ratio_to_last": ratio}),
                        ))
                    })
                    .collect();
                json!({"case": case.name, "unit": case.unit, "results": results})
            })
            .collect();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|(group, target, reason)| json!({"group": group, "target": target, "reason": reason}))
            .collect();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        json!({"targets": self.targets, "rounds": self.rounds, "cpus": cpus, "cases": cases, "failures": failures})
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Words to the left, figures to the right.
            let padded = if column < 2 { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
            text.push_str(&padded);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn table_shows_medians_and_ratios_to_the_last() {
        let mut report = Report::new(vec!["a".into(), "b".into()], 1);
        report.add("write", "MB/s", "a", 300.0);
        report.add("write", "MB/s", "b", 100.0);
        report.add("read", "MB/s", "a", 5.0);
        let table = report.table();
        assert!(table.contains("/ b"), "{table}");
        assert!(
            table.lines().nth(1).unwrap().split_whitespace().eq(["write", "MB/s", "300", "3.00", "100"]),
            "{table}"
        );
        assert!(table.lines().nth(2).unwrap().ends_with('-'), "{table}");
        assert_eq!(report.json()["cases"][0]["results"]["a"]["ratio_to_last"], 3.0);
    }
}
