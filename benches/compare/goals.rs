//! What pontoon means to reach beside each rival, and what it must never fall below.
//!
//! A goal is what a bare forwarder with an adaptive spin was measured to reach on a 2-CPU virtual
//! machine. What it reaches on the machine at hand is measured too (`bare`): nearly all of that is
//! the goal beside it.
//!
//! A floor is what tests hold (`--check`): so far below that only a mistake of ours, and no noise of
//! the machine, gets there. Those of round trips and connections are lowest: everyone's are up to
//! three times as fast when the scheduler puts both endpoints on one CPU.

use std::fmt::Write;

use anyhow::{Result, bail};

use crate::measure::{Metric, Row};
use crate::sample::Samples;

const SWITCHED: &str = "pontoon-tap";
const TRANSLATED: &str = "pontoon-nat";

/// The metrics of the table, in the order of the arrays below.
const METRICS: [&str; 5] = ["tcp1-send", "tcp4-send", "udp64", "rr.p50", "crr"];

/// Ratios that are aimed at, greater being better for pontoon.
struct Line {
    ours: &'static str,
    other: &'static str,
    goals: [f64; 5],
    /// For those that every machine has.
    floors: Option<[f64; 5]>,
}

const fn line(
    ours: &'static str,
    other: &'static str,
    goals: [f64; 5],
    floors: Option<[f64; 5]>,
) -> Line {
    Line {
        ours,
        other,
        goals,
        floors,
    }
}

const LINES: [Line; 9] = [
    line(
        SWITCHED,
        "bare",
        [0.9, 0.9, 0.9, 0.9, 0.9],
        Some([0.5, 0.5, 0.5, 0.25, 0.4]),
    ),
    line(SWITCHED, "bridge", BRIDGED, FLOORS),
    line(TRANSLATED, "iptables", FILTERED, FLOORS),
    line("pontoon-tap+no-halt", "bridge", BRIDGED, None),
    line("pontoon-nat+no-halt", "iptables", FILTERED, None),
    line(SWITCHED, "ovs", [1.9, 2.0, 1.8, 3.5, 2.8], None),
    line(SWITCHED, "vde", [3.5, 3.5, 2.0, 3.0, 3.5], None),
    line(TRANSLATED, "slirp4netns", [3.5, 3.5, 2.0, 3.0, 3.5], None),
    line(TRANSLATED, "pasta", [1.3, 1.3, 1.4, 3.0, 2.8], None),
];

const BRIDGED: [f64; 5] = [0.95, 0.45, 1.15, 2.2, 1.4];
const FILTERED: [f64; 5] = [1.05, 0.55, 1.3, 2.2, 1.5];
const FLOORS: Option<[f64; 5]> = Some([0.4, 0.25, 0.5, 0.2, 0.2]);

/// The goals and what this run reached of them, as Markdown; empty if nothing of them was measured.
pub(crate) fn table(rows: &[Row], samples: &Samples) -> String {
    let metrics: Vec<Metric> = rows.iter().flat_map(Row::metrics).collect();
    let metrics: Vec<&Metric> = METRICS
        .iter()
        .filter_map(|key| metrics.iter().find(|metric| metric.key == *key))
        .collect();
    let cell = |line: &Line, metric: &Metric| {
        let place = METRICS.iter().position(|key| *key == metric.key)?;
        let ratio = samples.ratio(line.ours, line.other, metric)?;
        let (goal, reached) = (line.goals[place], ratio.median);
        let mark = if reached >= goal { " ✔" } else { "" };
        Some(format!("**{reached:.2}** / {goal}{mark}"))
    };
    let was_measured = |line: &&Line| metrics.iter().any(|metric| cell(line, metric).is_some());
    let lines: Vec<&Line> = LINES.iter().filter(was_measured).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = "| reached / aimed at |".to_owned();
    for line in &lines {
        let _ = write!(text, " {} : {} |", line.ours, line.other);
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(lines.len()));
    for metric in metrics {
        let _ = write!(text, "| {} |", metric.title);
        for line in &lines {
            let _ = write!(text, " {} |", cell(line, metric).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

/// Holds the medians against the floors, and prints each.
///
/// # Errors
///
/// A ratio is below its floor, or none was measured.
pub(crate) fn check(rows: &[Row], samples: &Samples) -> Result<()> {
    let metrics: Vec<Metric> = rows.iter().flat_map(Row::metrics).collect();
    let mut held = 0;
    let mut broken = Vec::new();
    for (line, (place, key)) in LINES
        .iter()
        .flat_map(|line| METRICS.iter().enumerate().map(move |metric| (line, metric)))
    {
        let metric = metrics.iter().find(|metric| metric.key == *key);
        let ratio = metric.and_then(|metric| samples.ratio(line.ours, line.other, metric));
        let (Some(floors), Some(ratio)) = (line.floors, ratio) else {
            continue;
        };
        held += 1;
        let floor = floors[place];
        let told = format!(
            "{key} of {}: {:.2} times {}'s ({:.2}–{:.2}), floor {floor}",
            line.ours, ratio.median, line.other, ratio.low, ratio.high
        );
        println!("{told}");
        if ratio.median < floor {
            broken.push(told);
        }
    }
    if held == 0 {
        bail!("--check: nothing was measured that has a floor");
    }
    if !broken.is_empty() {
        bail!("below its floor: {}", broken.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::ROWS;
    use crate::sample::Sample;

    fn samples(ours: f64) -> Samples {
        let mut samples = Samples::default();
        for (subject, value) in [(SWITCHED, ours), ("bridge", 10.0)] {
            samples.add(Sample {
                round: 0,
                subject: subject.to_owned(),
                metric: "tcp1-send".to_owned(),
                value,
            });
        }
        samples
    }

    #[test]
    fn goals_name_metrics_that_exist_and_floors_lie_below_them() {
        let metrics: Vec<Metric> = ROWS.iter().flat_map(Row::metrics).collect();
        for key in METRICS {
            assert!(metrics.iter().any(|metric| metric.key == key), "{key}");
        }
        for line in LINES {
            let pairs = line.floors.map(|floors| floors.into_iter().zip(line.goals));
            assert!(
                pairs
                    .into_iter()
                    .flatten()
                    .all(|(floor, goal)| floor < goal * 0.6)
            );
        }
    }

    #[test]
    fn a_ratio_below_its_floor_fails_and_nothing_measured_fails() {
        assert!(check(&ROWS, &samples(9.0)).is_ok());
        let error = check(&ROWS, &samples(3.0)).unwrap_err().to_string();
        assert!(error.contains("0.30 times bridge's"), "{error}");
        assert!(check(&ROWS, &Samples::default()).is_err());
    }

    #[test]
    fn the_table_says_what_was_reached() {
        let table = table(&ROWS, &samples(9.8));
        assert!(
            table.contains("| TCP ×1, container sends | **0.98** / 0.95 ✔ |"),
            "{table}"
        );
        assert_eq!(super::table(&ROWS, &Samples::default()), "");
    }
}
