//! Results, one row for each run.

use serde::{Deserialize, Serialize};

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `qat`, `prune`, `tickets` or `gradients`.
    pub task: String,
    /// The data set.
    pub data: String,
    /// How the network was trained and compressed.
    pub recipe: String,
    /// What decides initial weights, the order of examples and everything else that is random.
    pub seed: u64,
    /// The fraction of test examples that is right.
    pub accuracy: f64,
    /// Bits that a weight of the compressed layers takes, with scales, masks and metadata.
    pub bits_per_weight: f64,
    /// The fraction of weights that is not pruned.
    pub weights_left: f64,
    /// Bytes that a rank has sent, or 0 without ranks.
    pub bytes_sent: u64,
    /// The most memory of the process during the run, or 0 where the system does not tell.
    pub peak_bytes: u64,
}

/// The mean of numbers, and half of the width of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Half of the width; infinite for a single number.
    pub half: f64,
}

impl Interval {
    /// Computes the interval of Student's t distribution.
    pub fn new(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n.max(1) as f64;
        if n < 2 {
            return Self { mean, half: f64::INFINITY };
        }
        let square: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        let deviation = (square / (n - 1) as f64).sqrt();
        Self { mean, half: student(n - 1) * deviation / (n as f64).sqrt() }
    }
}

/// Returns the 97.5 % quantile of Student's t distribution.
fn student(freedom: usize) -> f64 {
    const QUANTILES: [f64; 10] =
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    // Past the table, an upper limit: the quantile falls with the degrees of freedom.
    QUANTILES[freedom.clamp(1, 10) - 1]
}

/// Rows of the same task, data, recipe and fraction of weights as one line: accuracy with its interval over
/// seeds, and the other figures of the first.
pub fn summary(rows: &[Row]) -> Vec<String> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let same = |other: &Row| {
            (&other.task, &other.data, &other.recipe) == (&row.task, &row.data, &row.recipe)
                && (other.weights_left - row.weights_left).abs() < 5e-4
        };
        match groups.iter_mut().find(|group| same(group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| line(group)).collect()
}

fn line(group: &[&Row]) -> String {
    let accuracies: Vec<f64> = group.iter().map(|row| 100.0 * row.accuracy).collect();
    let Interval { mean, half } = Interval::new(&accuracies);
    let spread = if half.is_finite() { format!("±{half:.2}") } else { "1 seed".to_owned() };
    let Row { task, data, recipe, bits_per_weight, weights_left, bytes_sent, .. } = group[0];
    let sent = if *bytes_sent > 0 {
        format!("  {:.2} MB sent", *bytes_sent as f64 / 1e6)
    } else {
        String::new()
    };
    format!(
        "{task:<10} {data:<10} {recipe:<16} {mean:6.2} % {spread:>7}  {bits_per_weight:6.3} bits  {:6.2} % left{sent}",
        100.0 * weights_left
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(recipe: &str, seed: u64, accuracy: f64) -> Row {
        Row {
            task: "qat".into(),
            data: "mnist".into(),
            recipe: recipe.into(),
            seed,
            accuracy,
            bits_per_weight: 2.5,
            weights_left: 1.0,
            bytes_sent: 0,
            peak_bytes: 7,
        }
    }

    /// By hand: 1, 2 and 3 have a deviation of 1, so that the interval is 4.303/√3.
    #[test]
    fn intervals() {
        let interval = Interval::new(&[1.0, 2.0, 3.0]);
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(Interval::new(&[5.0]), Interval { mean: 5.0, half: f64::INFINITY });
        assert_eq!(Interval::new(&[1.0; 20]), Interval { mean: 1.0, half: 0.0 });
    }

    #[test]
    fn rows_are_grouped_over_seeds() {
        let rows = [row("dense", 1, 0.97), row("qat-int2", 1, 0.9), row("dense", 2, 0.98)];
        let lines = summary(&rows);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("97.50 %") && lines[0].contains("±6.35"), "{}", lines[0]);
        assert!(lines[1].contains("1 seed"), "{}", lines[1]);
    }

    #[test]
    fn json_has_these_names_only() {
        let json = serde_json::to_value(row("dense", 1, 0.5)).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut want = [
            "task",
            "data",
            "recipe",
            "seed",
            "accuracy",
            "bits_per_weight",
            "weights_left",
            "bytes_sent",
            "peak_bytes",
        ];
        want.sort_unstable();
        let mut names: Vec<_> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, want);
    }
}
