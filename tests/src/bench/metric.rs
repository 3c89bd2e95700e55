//! One measured figure: its runs, and the baseline's runs beside them.

use serde::{Deserialize, Serialize};

/// What was measured in each run of one thing. Never empty once a [`Metric`] is made of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    values: Vec<f64>,
}

impl Series {
    /// Adds a run.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// How many runs there were.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.values.len()
    }

    /// The middle of the runs; the mean of the two in the middle of an even number.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        quantile(&self.values, 0.5)
    }

    fn min(&self) -> Option<f64> {
        self.values.iter().copied().reduce(f64::min)
    }

    fn max(&self) -> Option<f64> {
        self.values.iter().copied().reduce(f64::max)
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

/// The value that `part` (0 to 1) of `values` do not exceed, between two of them by proportion;
/// `None` when there are none.
pub(super) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = part.clamp(0.0, 1.0) * last as f64;
    // In range: `part` is clamped, so the place is at most `last`.
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor()))
}

/// Which way is better.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Better {
    /// A rate: more is better.
    Higher,
    /// A time, a size, a cost: less is better.
    Lower,
}

/// A series without a run was to be reported.
#[derive(Debug, thiserror::Error)]
#[error("{metric}: nothing was measured")]
pub struct NoRuns {
    metric: String,
}

/// One figure of a result.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Metric {
    /// Its name, unique in the benchmark; part of the contract.
    pub name: String,
    /// What it is counted in.
    pub unit: String,
    /// The median of the runs.
    pub value: f64,
    /// The lowest run.
    pub min: f64,
    /// The highest run.
    pub max: f64,
    /// How many runs there were.
    pub runs: usize,
    /// What it is compared with, measured by turns in the same run.
    pub baseline: Option<String>,
    /// The median of the baseline's runs.
    pub baseline_value: Option<f64>,
    /// How much better than the baseline we are: above 1 is better, whatever the unit. `None`
    /// without a baseline, and where one of both is zero.
    pub ratio: Option<f64>,
}

impl Metric {
    /// A figure without a baseline.
    ///
    /// # Errors
    /// When there was no run.
    pub fn alone(name: &str, unit: &str, series: &Series) -> Result<Self, NoRuns> {
        let (Some(value), Some(min), Some(max)) = (series.median(), series.min(), series.max()) else {
            return Err(NoRuns { metric: name.to_owned() });
        };
        Ok(Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: significant(value),
            min: significant(min),
            max: significant(max),
            runs: series.runs(),
            baseline: None,
            baseline_value: None,
            ratio: None,
        })
    }

    /// A figure beside a baseline of the same unit.
    ///
    /// # Errors
    /// When there was no run of one of both.
    pub fn against(
        name: &str,
        unit: &str,
        better: Better,
        series: &Series,
        (baseline, baseline_series): (&str, &Series),
    ) -> Result<Self, NoRuns> {
        let alone = Self::alone(name, unit, series)?;
        let (Some(ours), Some(theirs)) = (series.median(), baseline_series.median()) else {
            return Err(NoRuns { metric: format!("{name}, {baseline}") });
        };
        let ratio = match better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        };
        Ok(Self {
            baseline: Some(baseline.to_owned()),
            baseline_value: Some(significant(theirs)),
            ratio: (ratio.is_finite() && ratio > 0.0).then(|| significant(ratio)),
            ..alone
        })
    }
}

/// Four significant digits: more are noise, and hard to read.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    // Scaling by a power of ten would bring back digits that were rounded away.
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().collect()
    }

    #[test]
    fn the_value_is_the_median_and_the_extremes_are_kept() {
        let metric = Metric::alone("m", "s", &series(&[3.0, 1.0, 9.0])).unwrap();
        assert_eq!((metric.value, metric.min, metric.max, metric.runs), (3.0, 1.0, 9.0, 3));
        assert_eq!((metric.baseline, metric.baseline_value, metric.ratio), (None, None, None));
        assert_eq!(series(&[1.0, 2.0]).median(), Some(1.5));
    }

    #[test]
    fn a_ratio_above_one_means_that_we_are_better_for_rates_and_for_times() {
        let (fast, slow) = (series(&[8.0]), series(&[2.0]));
        let rate = Metric::against("m", "/s", Better::Higher, &fast, ("b", &slow)).unwrap();
        assert_eq!((rate.ratio, rate.baseline_value), (Some(4.0), Some(2.0)));
        let time = Metric::against("m", "s", Better::Lower, &slow, ("b", &fast)).unwrap();
        assert_eq!(time.ratio, Some(4.0));
        let worse = Metric::against("m", "s", Better::Lower, &fast, ("b", &slow)).unwrap();
        assert_eq!(worse.ratio, Some(0.25));
    }

    #[test]
    fn nothing_is_reported_of_nothing() {
        let error = Metric::alone("join_1k", "s", &Series::default()).unwrap_err();
        assert_eq!(error.to_string(), "join_1k: nothing was measured");
    }

    #[test]
    fn a_ratio_to_zero_is_none() {
        let zero = series(&[0.0]);
        let metric = Metric::against("m", "", Better::Lower, &zero, ("b", &series(&[1.0]))).unwrap();
        assert_eq!(metric.ratio, None);
    }

    #[test]
    fn figures_have_four_digits() {
        assert_eq!(significant(0.123_456), 0.1235);
        assert_eq!(significant(123_456.0), 123_500.0);
        assert_eq!(significant(0.0), 0.0);
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&[1.0, 3.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
