//! Segmentation: the best-scored neighbouring pair is merged, the leftmost among equals, until none is a piece.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

/// What segmentation asks of a model.
pub(super) trait Vocabulary {
    /// Score of a piece that text can be segmented into.
    fn score(&self, piece: &str) -> Option<f32>;
    /// Whether a piece may only be a step on the way to longer ones.
    fn is_unused(&self, piece: &str) -> bool;
    /// Length of the string at the start of `text` that is one symbol and never merged, or 0.
    fn atom(&self, text: &str) -> usize;
}

/// A stretch of the text; neighbours by index, `NONE` at the ends. Empty once it is merged into its left neighbour.
struct Symbol {
    range: Range<usize>,
    left: usize,
    right: usize,
    frozen: bool,
}

const NONE: usize = usize::MAX;

/// Two neighbours that together are a piece. Stale once the length of either has changed.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}
impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Pair {}

/// Calls `emit` with the pieces of `text` in order; a character that is no piece is emitted as it is.
pub(super) fn segment(text: &str, vocabulary: &impl Vocabulary, emit: &mut impl FnMut(&str)) {
    let mut symbols = split(text, vocabulary);
    let mut agenda = BinaryHeap::new();
    // How an unused piece came about: where it is cut again.
    let mut cuts: HashMap<&str, usize> = HashMap::new();
    let mut propose = |left: usize, right: usize, symbols: &[Symbol], agenda: &mut BinaryHeap<Pair>| {
        if left == NONE || right == NONE || symbols[left].frozen || symbols[right].frozen {
            return;
        }
        let piece = &text[symbols[left].range.start..symbols[right].range.end];
        if let Some(score) = vocabulary.score(piece) {
            agenda.push(Pair { score, left, right, len: piece.len() });
            if vocabulary.is_unused(piece) {
                cuts.insert(piece, symbols[left].range.len());
            }
        }
    };
    for right in 1..symbols.len() {
        propose(right - 1, right, &symbols, &mut agenda);
    }
    while let Some(Pair { left, right, len, .. }) = agenda.pop() {
        let (a, b) = (&symbols[left].range, &symbols[right].range);
        if a.is_empty() || b.is_empty() || a.len() + b.len() != len {
            continue;
        }
        let next = symbols[right].right;
        symbols[left].range.end = symbols[right].range.end;
        symbols[right].range = 0..0;
        symbols[left].right = next;
        if next != NONE {
            symbols[next].left = left;
        }
        propose(symbols[left].left, left, &symbols, &mut agenda);
        propose(left, next, &symbols, &mut agenda);
    }
    let mut at = if symbols.is_empty() { NONE } else { 0 };
    while at != NONE {
        emit_used(&text[symbols[at].range.clone()], vocabulary, &cuts, emit);
        at = symbols[at].right;
    }
}

/// One symbol per character, or per string that is never merged.
fn split(text: &str, vocabulary: &impl Vocabulary) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let atom = vocabulary.atom(&text[at..]);
        let len = if atom > 0 { atom } else { first.len_utf8() };
        let index = symbols.len();
        let left = if index == 0 { NONE } else { index - 1 };
        symbols.push(Symbol { range: at..at + len, left, right: index + 1, frozen: atom > 0 });
        at += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.right = NONE;
    }
    symbols
}

/// Emits `piece`, or what it was merged from where it is unused itself.
fn emit_used(piece: &str, vocabulary: &impl Vocabulary, cuts: &HashMap<&str, usize>, emit: &mut impl FnMut(&str)) {
    // A worklist, not recursion: a piece may be as long as the text.
    let mut rest = vec![piece];
    while let Some(piece) = rest.pop() {
        match cuts.get(piece).filter(|_| vocabulary.is_unused(piece)) {
            Some(cut) => {
                let (left, right) = piece.split_at(*cut);
                rest.extend([right, left]);
            }
            None => emit(piece),
        }
    }
}
