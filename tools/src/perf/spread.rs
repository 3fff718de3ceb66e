//! Several measurements of one thing.

use serde::Serialize;

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without any value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (values[middle - 1] + values[middle]) / 2.0
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }

    /// `median (min to max)`, each as `show` shows it.
    pub(crate) fn text(&self, show: impl Fn(f64) -> String) -> String {
        format!("{} ({} to {})", show(self.median), show(self.min), show(self.max))
    }

    /// The median, and how far from it the outermost value is, in percent.
    pub(crate) fn short(&self, show: impl Fn(f64) -> String) -> String {
        let furthest = (self.max - self.median).max(self.median - self.min);
        if self.median == 0.0 {
            return show(0.0);
        }
        format!("{} ±{:.0} %", show(self.median), furthest / self.median * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_value_is_shown_in_percent() {
        assert_eq!(Spread::of([8.0, 10.0, 11.0]).unwrap().short(|value| format!("{value:.0}")), "10 ±20 %");
        assert_eq!(Spread::of([0.0]).unwrap().short(|value| format!("{value:.0}")), "0");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0]).unwrap().text(|value| format!("{value:.1}")), "1.0 (1.0 to 1.0)");
    }
}
