//! Names as they are given: patterns of them, and which known name a misspelt one was meant to be.

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

/// [`glob`], whatever the case: OpenCompass looks for the file of a configuration in this way.
pub fn matches(pattern: &str, text: &str) -> bool {
    glob(&pattern.to_lowercase(), &text.to_lowercase())
}

/// Whether `text` is what a shell pattern says, as Python's `fnmatch` reads it: `*`, `?`, `[abc]`, `[a-c]`, `[!abc]`; `*`
/// matches slashes too.
pub fn glob(pattern: &str, text: &str) -> bool {
    matches_all(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn matches_all(pattern: &[char], text: &[char]) -> bool {
    // Where the last `*` stands, and what of the text it has swallowed.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => one_of(&pattern[p..], text[t]),
            Some(c) => (*c == text[t]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(step), _) => (p, t) = (p + step, t + 1),
            (None, Some((at, swallowed))) => {
                star = Some((at, swallowed + 1));
                (p, t) = (at + 1, swallowed + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of the set that `pattern` begins with, if `c` is in it. A bracket that is not closed stands for itself.
fn one_of(pattern: &[char], c: char) -> Option<usize> {
    let is_negated = pattern.get(1) == Some(&'!');
    let first = if is_negated { 2 } else { 1 };
    // A closing bracket that comes first is a member.
    let Some(close) = pattern.iter().skip(first + 1).position(|c| *c == ']').map(|at| at + first + 1) else {
        return (c == '[').then_some(1);
    };
    let set = &pattern[first..close];
    let (mut i, mut found) = (0, false);
    while i < set.len() {
        if i + 2 < set.len() && set[i + 1] == '-' {
            found |= (set[i]..=set[i + 2]).contains(&c);
            i += 3;
        } else {
            found |= set[i] == c;
            i += 1;
        }
    }
    (found != is_negated).then_some(close + 1)
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

    #[test]
    fn patterns_are_fnmatchs() {
        // Each is what `fnmatch.fnmatch(text, pattern)` says in Python 3.11.
        for (pattern, text) in [
            ("*opt*", "hf_opt_125m.py"),
            ("*", ""),
            ("*a*b*", "xaxbx"),
            ("*llama[23]_7b*", "hf_llama2_7b_chat.py"),
            ("*[!0-9]b.py", "x_b.py"),
            ("a?c", "abc"),
            ("[]]", "]"),
            ("[a", "[a"),
            ("*1_8B*", "hf_internlm2_1_8b.py"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a?c", "ac"), ("*[!0-9]b.py", "x7b.py"), ("*opt", "hf_opt_125m.py"), ("", "x"), ("[a-c]", "d")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
