//! All samples of a run, and the medians, spreads and ratios that are told of them.

use serde::Serialize;

use crate::measure::Metric;

/// One value of one subject in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) subject: String,
    /// A metric's key.
    pub(crate) metric: String,
    pub(crate) value: f64,
}

/// Median, lowest and highest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get((values.len() - 1) / 2)?;
        Some(Spread {
            median: f64::midpoint(*lower, *upper),
            low,
            high,
        })
    }
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Samples {
    samples: Vec<Sample>,
}

impl Samples {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    fn of<'a>(&'a self, subject: &'a str, metric: &'a str) -> impl Iterator<Item = &'a Sample> {
        let samples = self.samples.iter();
        samples.filter(move |sample| sample.subject == subject && sample.metric == metric)
    }

    pub(crate) fn spread(&self, subject: &str, metric: &str) -> Option<Spread> {
        Spread::of(self.of(subject, metric).map(|sample| sample.value))
    }

    /// How many times better `subject` is than `other`, over the rounds in which both were
    /// measured: only figures that were taken side by side compare.
    pub(crate) fn ratio(&self, subject: &str, other: &str, metric: &Metric) -> Option<Spread> {
        let ratios = self.of(subject, &metric.key).filter_map(|ours| {
            let mut theirs = self.of(other, &metric.key);
            let theirs = theirs.find(|theirs| theirs.round == ours.round)?;
            let (better, worse) = if metric.higher_is_better {
                (ours.value, theirs.value)
            } else {
                (theirs.value, ours.value)
            };
            (worse > 0.0).then(|| better / worse)
        });
        Spread::of(ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(usize, &str, f64)]) -> Samples {
        let mut samples = Samples::default();
        for (round, subject, value) in values {
            samples.add(Sample {
                round: *round,
                subject: (*subject).to_owned(),
                metric: "m".to_owned(),
                value: *value,
            });
        }
        samples
    }

    fn metric(higher_is_better: bool) -> Metric {
        Metric {
            key: "m".to_owned(),
            title: String::new(),
            unit: "",
            higher_is_better,
        }
    }

    #[test]
    fn medians() {
        assert_eq!(Spread::of([]), None);
        let spread =
            Spread::of([3.0, 1.0, 2.0]).map(|spread| (spread.median, spread.low, spread.high));
        assert_eq!(spread, Some((2.0, 1.0, 3.0)));
        assert_eq!(
            Spread::of([1.0, 2.0]).map(|spread| spread.median),
            Some(1.5)
        );
    }

    #[test]
    fn ratios_pair_the_rounds_and_greater_is_better() {
        let samples = samples(&[
            (0, "a", 4.0),
            (1, "a", 9.0),
            (0, "b", 2.0),
            (1, "b", 3.0),
            (2, "b", 1.0),
        ]);
        let ratio = |higher| {
            samples
                .ratio("a", "b", &metric(higher))
                .map(|spread| spread.median)
        };
        assert_eq!(ratio(true), Some(2.5));
        assert_eq!(ratio(false).map(|ratio| (ratio * 12.0).round()), Some(5.0));
    }
}
