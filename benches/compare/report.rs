//! The report of a run: Markdown with figures and ratios, JSON with every sample, charts.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::chart::{Bar, Panel, chart};
use crate::goals;
use crate::machine::Machine;
use crate::measure::{Metric, Row};
use crate::rivals::{Group, Subject};
use crate::sample::{Samples, Spread};

/// A run, when it is over.
pub(crate) struct Report<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// Those that were measured.
    pub(crate) subjects: &'a [Subject],
    pub(crate) rows: &'a [Row],
    pub(crate) samples: &'a Samples,
    /// What was skipped or failed, a line each.
    pub(crate) notes: &'a [String],
}

/// What a chart shows of a group.
struct Picture {
    name: &'static str,
    title: &'static str,
    shows: fn(&Metric) -> bool,
}

const PICTURES: [Picture; 3] = [
    Picture {
        name: "traffic",
        title: "traffic",
        shows: |metric| !metric.is_cpu() && metric.unit != "ms",
    },
    Picture {
        name: "cpu",
        title: "CPU time of the whole machine",
        shows: Metric::is_cpu,
    },
    Picture {
        name: "control",
        title: "attaching and publishing",
        shows: |metric| metric.unit == "ms",
    },
];

impl Report<'_> {
    /// Writes `compare.md`, `compare.json` and `GROUP-PICTURE.svg` into a directory.
    ///
    /// # Errors
    ///
    /// A file can't be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let create = fs::create_dir_all(directory);
        create.with_context(|| format!("make the directory {}", directory.display()))?;
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))
        };
        write("compare.json", &self.json()?)?;
        let mut markdown = self.head();
        let goals = goals::table(self.rows, self.samples);
        if !goals.is_empty() {
            let _ = writeln!(
                markdown,
                "\n## In short\n\nMedians of the ratios.\n\n{goals}"
            );
        }
        for group in Group::ALL {
            let tables = self.tables(group);
            if tables.is_empty() {
                continue;
            }
            let _ = writeln!(markdown, "\n## {}\n\n{tables}", group.title());
            for picture in &PICTURES {
                let panels = self.panels(group, picture);
                if panels.is_empty() {
                    continue;
                }
                let title = format!("{}: {}", group.title(), picture.title);
                let name = format!("{}-{}.svg", group.name(), picture.name);
                write(&name, &chart(&title, &self.about_machine(), &panels))?;
                let _ = writeln!(markdown, "\n![{title}]({name})");
            }
        }
        markdown.push_str(&self.tail());
        write("compare.md", &markdown)
    }

    fn about_machine(&self) -> String {
        let Machine {
            date,
            kernel,
            cpu,
            cpus,
        } = self.machine;
        format!(
            "{date} · Linux {kernel} · {cpus} × {cpu} · {} rounds of {} s; bars are medians, \
             lines lowest to highest",
            self.rounds, self.seconds
        )
    }

    fn head(&self) -> String {
        let Machine {
            date,
            kernel,
            cpu,
            cpus,
        } = self.machine;
        format!(
            "# pontoon beside its rivals\n\n\
             {date}, Linux {kernel}, {cpus} × {cpu}. {} rounds, {} s a figure; in a round every \
             row is measured with every subject in turn before the next row, and every other round \
             runs in reverse. Figures are medians (lowest–highest). Ratios are taken within \
             a round, and **greater than 1 is better for pontoon** on every row: its figure ÷ the \
             other's, or for times and CPU the other's ÷ its own. CPU is the time that the whole \
             machine was busy, endpoints included. Bytes of UDP are payload. Machines like this \
             one vary by up to 30 % between runs: figures of different runs do not compare.\n",
            self.rounds, self.seconds
        )
    }

    fn tail(&self) -> String {
        let mut text = "\n## The subjects\n\n| subject | what |\n|---|---|\n".to_owned();
        for subject in self.subjects {
            let _ = writeln!(text, "| {} | {} |", subject.name(), subject.about());
        }
        if !self.notes.is_empty() {
            text.push_str("\n## Not measured\n\n");
            for note in self.notes {
                let _ = writeln!(text, "- {note}");
            }
        }
        text
    }

    fn in_group(&self, group: Group) -> Vec<&Subject> {
        let subjects = self.subjects.iter();
        subjects
            .filter(|subject| subject.group() == group)
            .collect()
    }

    /// The metrics for which a group has samples.
    fn metrics(&self, group: Group) -> Vec<Metric> {
        let subjects = self.in_group(group);
        let metrics = self.rows.iter().flat_map(Row::metrics);
        let has_samples = |metric: &Metric| {
            let mut subjects = subjects.iter();
            subjects.any(|subject| self.samples.spread(subject.name(), &metric.key).is_some())
        };
        metrics.filter(has_samples).collect()
    }

    /// The figures of a group, and a table of ratios for each pontoon in it.
    fn tables(&self, group: Group) -> String {
        let subjects = self.in_group(group);
        let metrics = self.metrics(group);
        if metrics.is_empty() {
            return String::new();
        }
        let mut text = table(&subjects, &metrics, |subject, metric| {
            self.samples.spread(subject.name(), &metric.key).map(figure)
        });
        let (ours, others): (Vec<&Subject>, Vec<&Subject>) = subjects
            .into_iter()
            .partition(|subject| subject.is_pontoon());
        for subject in ours {
            let ratios = table(&others, &metrics, |other, metric| {
                let name = subject.name();
                self.samples.ratio(name, other.name(), metric).map(ratio)
            });
            if !others.is_empty() {
                let _ = write!(text, "\n**{}, ratios**\n\n{ratios}", subject.name());
            }
        }
        text
    }

    fn panels(&self, group: Group, picture: &Picture) -> Vec<Panel> {
        let subjects = self.in_group(group);
        let metrics = self.metrics(group).into_iter();
        let panels = metrics.filter(picture.shows).map(|metric| {
            let bars = subjects.iter().filter_map(|subject| {
                let spread = self.samples.spread(subject.name(), &metric.key)?;
                Some(Bar {
                    label: subject.name().to_owned(),
                    value: figure_alone(spread.median),
                    spread,
                    ours: subject.is_pontoon(),
                })
            });
            Panel {
                bars: bars.collect(),
                higher_is_better: metric.higher_is_better,
                title: metric.title,
                unit: metric.unit,
            }
        });
        panels.collect()
    }

    fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Json<'a> {
            machine: &'a Machine,
            rounds: usize,
            seconds: f64,
            metrics: Vec<Metric>,
            notes: &'a [String],
            #[serde(flatten)]
            samples: &'a Samples,
        }
        let json = Json {
            machine: self.machine,
            rounds: self.rounds,
            seconds: self.seconds,
            metrics: self.rows.iter().flat_map(Row::metrics).collect(),
            notes: self.notes,
            samples: self.samples,
        };
        serde_json::to_string_pretty(&json).context("write JSON")
    }
}

/// A row a metric, a column a subject; rows without a cell are left out.
fn table(
    subjects: &[&Subject],
    metrics: &[Metric],
    cell: impl Fn(&Subject, &Metric) -> Option<String>,
) -> String {
    let mut text = "| |".to_owned();
    for subject in subjects {
        let _ = write!(text, " {} |", subject.name());
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(subjects.len()));
    for metric in metrics {
        let cells: Vec<Option<String>> = subjects
            .iter()
            .map(|subject| cell(subject, metric))
            .collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {}, {} |", metric.title, metric.unit);
        for cell in cells {
            let _ = write!(text, " {} |", cell.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

fn figure(spread: Spread) -> String {
    let [median, low, high] = [spread.median, spread.low, spread.high].map(figure_alone);
    format!("{median} ({low}–{high})")
}

fn ratio(spread: Spread) -> String {
    format!(
        "**{:.2}** ({:.2}–{:.2})",
        spread.median, spread.low, spread.high
    )
}

/// Three significant digits, and thousands apart.
fn figure_alone(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    text.push(' ');
                }
                text.push(digit);
            }
            text
        }
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let figures = [0.0123, 1.234, 12.34, 123.4, 12_345.6].map(figure_alone);
        assert_eq!(figures, ["0.012", "1.23", "12.3", "123", "12 346"]);
    }
}
