//! Scores with their uncertainty.

use serde_json::Value;

/// 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Percent of `correct` among `total`, as OpenCompass's `AccEvaluator` computes it (unrounded); 0 of nothing.
pub fn accuracy(correct: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { correct as f64 / total as f64 * 100.0 }
}

/// Fewest insertions, deletions and replacements of characters that make one text of another (V. Levenshtein, 1966).
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // For the beginning of `a` read so far, the distance to each beginning of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The place of the candidate nearest to `text` by [`edit_distance`], the first of equally near ones, and its distance. A
/// candidate is a text or a list of texts, of which the nearest counts; `None` where there is none.
pub fn nearest(text: &str, candidates: &Value) -> Option<(usize, usize)> {
    let distance = |candidate: &Value| match candidate {
        Value::String(candidate) => Some(edit_distance(text, candidate)),
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(|one| edit_distance(text, one)).min(),
        _ => None,
    };
    let distances = candidates.as_array()?.iter().enumerate().filter_map(|(i, c)| Some((distance(c)?, i)));
    distances.min().map(|(distance, i)| (i, distance))
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
    use serde_json::json;

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

    /// Distances of rapidfuzz 3.14.6, choices of OpenCompass 0.5.4's `EDAccEvaluator` (its `_preprocess`).
    #[test]
    fn distances_from_elsewhere() {
        for (a, b, wanted) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("A. late", "late", 3),
            ("答案是A", "答案：B", 2),
            ("\u{e9}", "e\u{301}", 2),
            ("👍🏽a", "a", 2),
            (" B", "B", 1),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (wanted, wanted), "{a} {b}");
        }
        let nested = json!([["A. late", "A", "late"], ["B. fun", "B", "fun"], ["C. for the bus", "C", "for the bus"]]);
        let flat = json!(["late", "fun", "for the bus"]);
        for (text, choices) in [
            ("", [0, 1]),
            (" B. fun\n", [1, 1]),
            ("The answer is C", [2, 2]),
            ("because it was fun", [1, 2]),
            ("bus", [1, 1]),
            ("Z", [0, 1]),
            ("A or B", [0, 0]),
            ("ABC", [0, 1]),
            ("(C)", [2, 1]),
            (" for fun", [1, 1]),
            ("late\n\nQuestion: x", [0, 0]),
        ] {
            let choice = |candidates| nearest(text, candidates).unwrap().0;
            assert_eq!([choice(&nested), choice(&flat)], choices, "{text:?}");
        }
        assert_eq!((nearest("a", &json!([])), nearest("a", &json!(3))), (None, None));
    }

    #[test]
    fn extremes() {
        assert_eq!((accuracy(0, 0), stderr(0, 0), wilson(0, 0)), (0.0, 0.0, (0.0, 100.0)));
        assert_eq!((accuracy(5, 5), stderr(5, 5)), (100.0, 0.0));
        let (low, high) = wilson(0, 20);
        assert!(low == 0.0 && high > 10.0 && high < 20.0);
    }
}
