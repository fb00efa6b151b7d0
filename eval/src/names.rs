//! Which known name a misspelt one was meant to be.

/// Known names within a small edit distance, or that contain `name`; nearest first, three at most.
pub fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut candidates: Vec<(usize, &str)> = known
        .filter_map(|candidate| {
            let distance = edits(&name, candidate);
            let is_part = name.len() >= 3 && candidate.contains(&name);
            (distance <= 1 + candidate.chars().count() / 5 || is_part).then_some((distance, candidate))
        })
        .collect();
    candidates.sort_unstable();
    candidates.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// ` (did you mean …?)` for the names that [`near`] found; nothing where it found none.
pub fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!(" (did you mean {}?)", quoted.join(" or "))
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["ceval_gen", "ceval_demo_gen", "mmlu_gen"];
        assert_eq!(near("cevl_gen", known.into_iter()), ["ceval_gen"]);
        assert_eq!(near("demo", known.into_iter()), ["ceval_demo_gen"]);
        assert!(near("gsm8k", known.into_iter()).is_empty());
        assert_eq!(
            did_you_mean(&near("paddng_side", ["padding_side", "use_fast"].into_iter())),
            " (did you mean `padding_side`?)"
        );
        assert_eq!(did_you_mean(&[]), "");
        assert_eq!((edits("kitten", "sitting"), edits("abc", ""), edits("答案", "答")), (3, 3, 1));
    }
}
