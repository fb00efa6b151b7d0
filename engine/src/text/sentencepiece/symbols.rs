//! Symbols that are never split, for a `tokenizer.json`: as words of their own that are taken whole.
//!
//! They could not be its added tokens, whose texts are normalised like any other: a space would be put in front of each.
//! `ignore_merges` takes every word whole that the vocabulary has, also one that no merging yields, such as the text `<0x41>`
//! between two symbols. Such a word is cut in two where two of the pieces meet that it is segmented into: nothing is merged
//! across that place, so that both parts are segmented as they were.

use super::{PieceKind, SentencePiece, bpe};
use std::collections::HashSet;
use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// Most names to be told from text that are worth trying: each is looked for in every word.
const MAX_CUTS: usize = 1 << 10;

impl SentencePiece {
    /// Whether there are symbols that are never split.
    pub(super) fn has_symbols(&self) -> bool {
        self.pieces.iter().any(|piece| piece.kind == PieceKind::UserDefined)
    }

    /// What makes words of symbols and of what lies between them. `names`: of the whole vocabulary, as the `tokenizer.json`
    /// has them.
    ///
    /// # Errors
    /// A name that cannot be told from text.
    pub(super) fn words<'a>(&self, names: impl Iterator<Item = (&'a str, u32)>) -> Result<Sequence, String> {
        let symbols = self.pieces.iter().filter(|piece| piece.kind == PieceKind::UserDefined);
        let mut symbols: Vec<&str> = symbols.map(|piece| piece.text.as_str()).collect();
        // Of several that begin at a place the first one of an expression is taken, and has to be the longest.
        symbols.sort_by_key(|symbol| std::cmp::Reverse(symbol.len()));
        let symbols: Vec<String> = symbols.into_iter().map(regex::escape).collect();
        let mut expressions = vec![symbols.join("|")];
        let cuts = self.cuts(names)?;
        if !cuts.is_empty() {
            expressions.push(format!(r"\A(?:{})", cuts.join("|")));
        }
        let split = |expression| Split::new(SplitPattern::Regex(expression), SplitDelimiterBehavior::Isolated, false);
        let words: Result<Vec<PreTokenizerWrapper>, _> =
            expressions.into_iter().map(|expression| split(expression).map(Into::into)).collect();
        words.map(Sequence::new).map_err(|e| e.to_string())
    }

    /// Expressions for the first parts of words that are names, but are not segmented into what they name.
    fn cuts<'a>(&self, names: impl Iterator<Item = (&'a str, u32)>) -> Result<Vec<String>, String> {
        let segmented = names.map(|(name, id)| {
            let mut pieces = Vec::new();
            bpe::segment(name, self, &mut |piece| pieces.push(piece.len()));
            let mut ids = Vec::new();
            self.pieces_of(name, &mut ids);
            (name, pieces, ids == [id])
        });
        let mut misread: Vec<(&str, Vec<usize>)> =
            segmented.filter(|(.., is_right)| !is_right).map(|(name, pieces, _)| (name, pieces)).collect();
        // Special tokens are taken out of a text before it is split, and a word that is no symbol holds none.
        misread.retain(|(name, _)| {
            let is_special = self.special.all().any(|(_, text, _)| text == *name);
            !is_special && !name.char_indices().any(|(at, _)| self.user_defined.longest(&name[at..]) > 0)
        });
        if misread.len() > MAX_CUTS {
            return Err(format!("beside its symbols it has {} names to be told from text, too many", misread.len()));
        }
        misread.sort_unstable();
        let names: HashSet<&str> = misread.iter().map(|(name, _)| *name).collect();
        let cut = |(name, pieces): &(&str, Vec<usize>)| {
            let mut at = 0;
            for piece in pieces {
                at += piece;
                let (first, rest) = name.split_at(at);
                if !rest.is_empty() && !names.contains(first) && !names.contains(rest) && self.meet(first, rest) {
                    return Ok(format!(r"{}(?={}\z)", regex::escape(first), regex::escape(rest)));
                }
            }
            Err(format!("beside its symbols it could not tell the text {name:?} from the piece"))
        };
        misread.iter().map(cut).collect()
    }

    /// Whether two parts of a text may stand alone: a run of unknown characters would become two unknown pieces.
    fn meet(&self, first: &str, rest: &str) -> bool {
        let is_known = |c: Option<char>| c.is_some_and(|c| self.ids.contains_key(c.encode_utf8(&mut [0; 4]) as &str));
        self.bytes.is_some() || is_known(first.chars().next_back()) || is_known(rest.chars().next())
    }
}
