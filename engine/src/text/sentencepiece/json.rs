//! A SentencePiece model as a `tokenizer.json`, where one gives the same ids.
//!
//! Both merge neighbours until no two are a piece. SentencePiece takes the pair whose piece has the best score, and the
//! leftmost of several; a `tokenizer.json` takes the pair that comes first in a list. With a list by scores they differ only
//! where pairs of equal scores overlap: then the left one has to come first. What has no counterpart is refused, and what has
//! one is compared on every piece, on pieces beside one another, and on runs, before it is given out.

use super::{PieceKind, SPACE, SentencePiece};
use std::collections::HashMap;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip},
    models::bpe::{BPE, Vocab},
    normalizers::{Prepend, Replace, Sequence as Normalizers, replace::ReplacePattern},
};

use crate::text::gguf_vocab::surround;

/// Stands in the vocabulary for the piece of the zero character, which segmentation never yields: no text holds two of these
/// as one piece.
const ZERO: &str = "\u{10fffd}\u{10fffd}";
/// Neighbouring pieces that are compared.
const NEIGHBOURS: usize = 50_000;
/// Runs of a character that are compared are up to so long.
const LONGEST_RUN: usize = 100;

/// Longest piece in bytes, and most merges of one score, that are worth trying: the work grows with their squares.
const MAX_PIECE: usize = 1 << 10;
const MAX_EQUAL: usize = 1 << 11;

type Merge<'a> = (&'a str, &'a str);

impl SentencePiece {
    /// The same tokenizer as `tokenizers` has it.
    ///
    /// # Errors
    /// What it cannot have.
    pub fn to_json(&self) -> Result<Tokenizer, String> {
        let tokenizer = self.build()?;
        self.compare(&tokenizer)?;
        Ok(tokenizer)
    }

    fn build(&self) -> Result<Tokenizer, String> {
        let [adds_space, collapses_spaces, escapes_spaces] = self.normalizer.spaces();
        let of_kind = |kind| self.pieces.iter().filter(move |piece| piece.kind == kind);
        if self.normalizer.has_rules() {
            return Err("it replaces characters by rules of its own".into());
        }
        if collapses_spaces || !escapes_spaces {
            return Err("it removes spaces, or leaves them as they are".into());
        }
        if let Some((id, piece)) = self.pieces.iter().enumerate().find(|(_, piece)| piece.text.len() > MAX_PIECE) {
            return Err(format!("its piece {id} has {} bytes, more than {MAX_PIECE}", piece.text.len()));
        }
        if let Some(piece) = of_kind(PieceKind::Unused).next() {
            return Err(format!("its piece {:?} is only a step on the way to others", piece.text));
        }
        if adds_space && let Some(piece) = of_kind(PieceKind::UserDefined).next() {
            return Err(format!("it puts a space in front of a text, but not behind its symbol {:?}", piece.text));
        }
        let name = |text: &str| if self.bytes.is_some() && text == "\0" { ZERO.to_owned() } else { text.to_owned() };
        let vocab: Vocab = self.all_pieces().map(|(text, id)| (name(text), id)).collect();
        if vocab.len() != self.pieces.len() {
            return Err(format!("it has a piece {ZERO:?}"));
        }
        let merges = self.merges()?.into_iter().map(|(left, right)| (left.to_owned(), right.to_owned())).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(self.pieces[self.unknown as usize].text.clone())
            .fuse_unk(true)
            .byte_fallback(self.bytes.is_some())
            .build();
        let mut tokenizer = Tokenizer::new(model.map_err(|e| e.to_string())?);

        let replace = |from: &str, to: String| Replace::new(ReplacePattern::String(from.into()), to);
        let space = SPACE.to_string();
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        if adds_space {
            normalizers.push(Prepend::new(space.clone()).into());
        }
        normalizers.push(replace(" ", space.clone()).map_err(|e| e.to_string())?.into());
        tokenizer.with_normalizer(Some(Normalizers::new(normalizers)));
        let mut decoders: Vec<DecoderWrapper> = vec![
            replace(&space, " ".into()).map_err(|e| e.to_string())?.into(),
            replace(ZERO, "\0".into()).map_err(|e| e.to_string())?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if adds_space {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_decoder(Some(Decoders::new(decoders)));

        // Looked for in the text as it is, and those of the model in what is segmented.
        let added = |text: &str, special, normalized| AddedToken::from(text, special).normalized(normalized);
        for (_, text, special) in self.special.all() {
            let token = [added(text, special, false)];
            if special {
                tokenizer.add_special_tokens(&token)
            } else {
                tokenizer.add_tokens(&token)
            };
        }
        let own =
            of_kind(PieceKind::UserDefined).filter(|piece| self.special.all().all(|(_, text, _)| text != piece.text));
        tokenizer.add_tokens(&own.map(|piece| added(&piece.text, false, true)).collect::<Vec<_>>());
        let text = |id: Option<u32>| id.and_then(|id| self.token(id));
        surround(&mut tokenizer, text(self.special.prefix).as_deref(), text(self.special.suffix).as_deref())?;
        Ok(tokenizer)
    }

    /// Pairs of pieces that are a piece together, in the order in which they are merged.
    fn merges(&self) -> Result<Vec<Merge<'_>>, String> {
        let score = |text: &str| {
            let id = *self.ids.get(text)? as usize;
            (self.pieces[id].kind == PieceKind::Normal).then_some(self.pieces[id].score)
        };
        let mut all: Vec<(f32, Merge<'_>)> = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.kind == PieceKind::Normal) {
            let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
            let cuts = cuts.filter(|(left, right)| score(left).is_some() && score(right).is_some());
            all.extend(cuts.map(|merge| (piece.score, merge)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut merges = Vec::with_capacity(all.len());
        for equal in all.chunk_by(|a, b| a.0 == b.0) {
            if equal.len() > MAX_EQUAL {
                return Err(format!("{} of its merges have the score {}, too many to rank", equal.len(), equal[0].0));
            }
            in_order(equal.iter().map(|(_, merge)| *merge).collect(), &mut merges)?;
        }
        Ok(merges)
    }

    /// Refuses a tokenizer that gives other ids, or other text.
    fn compare(&self, tokenizer: &Tokenizer) -> Result<(), String> {
        let texts = self.pieces.iter().map(|piece| piece.text.replace(SPACE, " "));
        let text_of = |i: usize| self.pieces[i % self.pieces.len()].text.replace(SPACE, " ");
        // Two and three pieces from all over the vocabulary, always the same ones.
        let mixed = (0..NEIGHBOURS).map(|i| {
            let some = i.wrapping_mul(0x9e37_79b9);
            format!(
                "{}{}{}",
                text_of(some),
                text_of(some >> 7),
                if i % 2 == 0 { text_of(some >> 13) } else { String::new() }
            )
        });
        let single =
            self.pieces.iter().filter(|piece| piece.text.chars().count() <= 2 && piece.kind == PieceKind::Normal);
        let runs = single.take(2_000).flat_map(|piece| {
            let text = piece.text.replace(SPACE, " ");
            [2, 3, 5, 7, 16, 33, LONGEST_RUN].map(|count| text.repeat(count))
        });
        for text in texts.chain(mixed).chain(runs) {
            let found = tokenizer.encode_fast(text.as_str(), true).map_err(|e| e.to_string())?;
            let wanted = self.encode(&text, true);
            if found.get_ids() != wanted {
                return Err(format!("it would give {text:?} other ids"));
            }
            let decoded = tokenizer.decode(&wanted, true).map_err(|e| e.to_string())?;
            if decoded != self.decode(&wanted, true) {
                return Err(format!("it would give the ids of {text:?} another text"));
            }
        }
        Ok(())
    }
}

/// Appends merges of equal scores so that of two that overlap, `(a, b)` and `(b, c)`, the left one comes first.
fn in_order<'a>(mut rest: Vec<Merge<'a>>, out: &mut Vec<Merge<'a>>) -> Result<(), String> {
    // Pieces that are runs have merges that may stand on either side of one another. Runs are merged from the left, so that the
    // longer one is left.
    rest.sort_by_key(|(left, _)| std::cmp::Reverse(left.len()));
    let mut ending: HashMap<&str, Vec<Merge<'a>>> = HashMap::new();
    rest.iter().for_each(|merge| ending.entry(merge.1).or_default().push(*merge));
    while !rest.is_empty() {
        // A merge that stands left of this one, and is not placed yet.
        let before = |merge: &Merge<'a>, of_others: bool| {
            let before = ending.get(merge.0).into_iter().flatten().filter(|other| *other != merge);
            let is_same = |other: &Merge<'a>| other.0.len() + other.1.len() == merge.0.len() + merge.1.len();
            before.filter(|other| !(of_others && is_same(other))).count()
        };
        let next = rest.iter().position(|merge| before(merge, false) == 0);
        let Some(next) = next.or_else(|| rest.iter().position(|merge| before(merge, true) == 0)) else {
            let (left, right) = rest[0];
            return Err(format!("its pieces have equal scores, {left:?} + {right:?} for one, that no list can rank"));
        };
        let merge = rest.remove(next);
        if let Some(ending) = ending.get_mut(merge.1) {
            ending.retain(|other| *other != merge);
        }
        out.push(merge);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(merges: &[Merge<'static>]) -> Result<Vec<Merge<'static>>, String> {
        let mut out = Vec::new();
        in_order(merges.to_vec(), &mut out).map(|()| out)
    }

    #[test]
    fn of_merges_that_overlap_the_left_one_comes_first() {
        assert_eq!(ordered(&[("b", "c"), ("a", "b")]).unwrap(), [("a", "b"), ("b", "c")]);
        assert_eq!(
            ordered(&[("c", "dddd"), ("bbb", "c"), ("a", "bbb")]).unwrap(),
            [("a", "bbb"), ("bbb", "c"), ("c", "dddd")]
        );
        // A run is merged from the left.
        assert_eq!(ordered(&[(" ", "  "), ("  ", " ")]).unwrap(), [("  ", " "), (" ", "  ")]);
        // "ab" and "bca" may each stand left of the other.
        assert!(ordered(&[("a", "b"), ("b", "ca"), ("ca", "a")]).is_ok());
        assert!(ordered(&[("a", "b"), ("b", "cca"), ("cca", "a")]).is_ok());
        assert!(ordered(&[("a", "bb"), ("bb", "a")]).is_ok());
        let refused = ordered(&[("a", "bb"), ("bb", "ccc"), ("ccc", "a")]).unwrap_err();
        assert!(refused.contains("that no list can rank"), "{refused}");
    }
}
