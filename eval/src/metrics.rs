//! Scores with their uncertainty.

/// 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Percent of `correct` among `total`, as OpenCompass's `AccEvaluator` computes it (unrounded); 0 of nothing.
pub fn accuracy(correct: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { correct as f64 / total as f64 * 100.0 }
}

/// Standard error of a proportion, in percent: `sqrt(p (1 - p) / n)`.
pub fn stderr(correct: usize, total: usize) -> f64 {
    if total == 0 {
        return 0.0;
    }
    let p = correct as f64 / total as f64;
    (p * (1.0 - p) / total as f64).sqrt() * 100.0
}

/// 95 % Wilson interval of a proportion, in percent (E. B. Wilson, 1927): unlike `p ± 2 stderr` it stays within
/// 0 and 100 and is not empty for few questions.
pub fn wilson(correct: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 100.0);
    }
    let (n, p) = (total as f64, correct as f64 / total as f64);
    let scale = 1.0 + Z * Z / n;
    let center = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((center - half).max(0.0) * 100.0, (center + half).min(1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of OpenCompass's results files, and of statsmodels' `proportion_confint(method="wilson")`.
    #[test]
    fn values_from_elsewhere() {
        assert_eq!(accuracy(9, 19), 47.368421052631575);
        assert_eq!(accuracy(6, 19), 31.57894736842105);
        assert_eq!(accuracy(2, 19), 10.526315789473683);
        assert!((stderr(9, 19) - 11.454_888_2).abs() < 1e-6, "{}", stderr(9, 19));
        let (low, high) = wilson(8, 10);
        assert!((low - 49.016_247).abs() < 1e-4 && (high - 94.331_784).abs() < 1e-4, "{low} {high}");
    }

    #[test]
    fn extremes() {
        assert_eq!((accuracy(0, 0), stderr(0, 0), wilson(0, 0)), (0.0, 0.0, (0.0, 100.0)));
        assert_eq!((accuracy(5, 5), stderr(5, 5)), (100.0, 0.0));
        let (low, high) = wilson(0, 20);
        assert!(low == 0.0 && high > 10.0 && high < 20.0);
    }
}
