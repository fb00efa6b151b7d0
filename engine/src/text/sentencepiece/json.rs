//! A SentencePiece model as a `tokenizer.json`, where one gives the same ids.
//!
//! Both merge neighbours until no two are a piece. SentencePiece takes the pair whose piece has the best score, and the
//! leftmost of several; a `tokenizer.json` takes the pair that comes first in a list. With a list by scores they differ only
//! where pairs of equal scores overlap: then the left one has to come first. Spaces are added, collapsed and escaped by
//! expressions, and symbols are words (`symbols.rs`). What has no counterpart is refused (rules for characters, pieces that are
//! taken apart again, equal scores that no list ranks: the tests show why), and what has one is compared on every piece, on
//! pieces beside one another, on runs, and where the list could not put the left pair first, before it is given out.

use super::{PieceKind, SPACE, SentencePiece, proto::Piece};
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
/// Texts in which the wrong merge might come first that are worth comparing.
const MAX_INVERSIONS: usize = 1 << 17;

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
        self.check_pieces()?;
        let name = |text: &str| if self.bytes.is_some() && text == "\0" { ZERO.to_owned() } else { text.to_owned() };
        let vocab: Vocab = self.all_pieces().map(|(text, id)| (name(text), id)).collect();
        if vocab.len() != self.pieces.len() {
            return Err(format!("it has a piece {ZERO:?}"));
        }
        let words = match self.has_symbols() {
            true => Some(self.words(vocab.iter().map(|(name, id)| (name.as_str(), *id)))?),
            false => None,
        };
        let merges =
            self.merges()?.iter().map(|(_, (left, right))| ((*left).to_owned(), (*right).to_owned())).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(self.pieces[self.unknown as usize].text.clone())
            .fuse_unk(true)
            .byte_fallback(self.bytes.is_some())
            .ignore_merges(words.is_some())
            .build();
        let error = |e: tokenizers::Error| e.to_string();
        let mut tokenizer = Tokenizer::new(model.map_err(error)?);
        tokenizer.with_normalizer(Some(self.normalizers().map_err(error)?));
        tokenizer.with_pre_tokenizer(words);
        tokenizer.with_decoder(Some(self.decoders().map_err(error)?));

        for (_, text, special) in self.special.all() {
            let token = [AddedToken::from(text, special).normalized(false)];
            if special {
                tokenizer.add_special_tokens(&token)
            } else {
                tokenizer.add_tokens(&token)
            };
        }
        let text = |id: Option<u32>| id.and_then(|id| self.token(id));
        surround(&mut tokenizer, text(self.special.prefix).as_deref(), text(self.special.suffix).as_deref())?;
        Ok(tokenizer)
    }

    /// Refuses what has no counterpart.
    fn check_pieces(&self) -> Result<(), String> {
        let [_, collapses_spaces, escapes_spaces] = self.normalizer.spaces();
        if self.normalizer.has_rules() {
            return Err("it replaces characters by rules of its own".into());
        }
        for (id, Piece { text, kind, .. }) in self.pieces.iter().enumerate() {
            if text.len() > MAX_PIECE {
                return Err(format!("its piece {id} has {} bytes, more than {MAX_PIECE}", text.len()));
            }
            // What is merged to it would have to be taken apart again.
            if *kind == PieceKind::Unused && self.merges_to(text).next().is_some() {
                return Err(format!("its piece {text:?} is only a step on the way to others"));
            }
            if *kind == PieceKind::UserDefined && collapses_spaces && text.contains(' ') {
                return Err(format!("it collapses spaces, but not those of its symbol {text:?}"));
            }
            // Decoding takes one space from each of the first pieces.
            if collapses_spaces && text.starts_with(&SPACE.to_string().repeat(2)) {
                return Err(format!("it collapses spaces, but has the piece {text:?}"));
            }
        }
        if !escapes_spaces && self.bytes.is_some() && !self.ids.contains_key(SPACE.to_string().as_str()) {
            return Err(format!("it spells {SPACE:?} as bytes, but decodes it as a space"));
        }
        Ok(())
    }

    /// What is done to spaces before segmentation.
    fn normalizers(&self) -> Result<Normalizers, tokenizers::Error> {
        let [adds_space, collapses_spaces, escapes_spaces] = self.normalizer.spaces();
        let space = if escapes_spaces { SPACE } else { ' ' }.to_string();
        let expression = |text: &str, by: &str| Replace::new(ReplacePattern::Regex(text.into()), by);
        let mut out: Vec<NormalizerWrapper> = Vec::new();
        if collapses_spaces {
            out.push(expression(r"\A +", "")?.into());
            out.push(expression(" {2,}", " ")?.into());
        }
        if adds_space {
            out.push(Prepend::new(space.clone()).into());
        }
        if escapes_spaces {
            out.push(Replace::new(ReplacePattern::String(" ".into()), space.clone())?.into());
        }
        if collapses_spaces {
            // The one in front too, and signs for spaces that were spelt out.
            out.push(expression(&format!(r"{space}+\z"), "")?.into());
        }
        Ok(Normalizers::new(out))
    }

    /// From pieces to text.
    fn decoders(&self) -> Result<Decoders, tokenizers::Error> {
        let [_, collapses_spaces, escapes_spaces] = self.normalizer.spaces();
        let replace = |from: &str, to: &str| Replace::new(ReplacePattern::String(from.into()), to);
        // How many of the first pieces lose the space that they begin with.
        let stripped = match (self.normalizer.adds_space(), collapses_spaces) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => usize::from(u16::MAX),
        };
        let spaces = DecoderWrapper::from(replace(&SPACE.to_string(), " ")?);
        let mut out: Vec<DecoderWrapper> =
            vec![replace(ZERO, "\0")?.into(), ByteFallback::new().into(), Fuse::new().into()];
        if escapes_spaces {
            out.insert(0, spaces);
            out.push(Strip::new(' ', stripped, 0).into());
        } else {
            // Spaces are no signs for spaces, and none is taken away.
            out.push(Strip::new(SPACE, stripped, 0).into());
            out.push(spaces);
        }
        Ok(Decoders::new(out))
    }

    /// Pairs of pieces that are merged to `text`.
    fn merges_to<'a>(&self, text: &'a str) -> impl Iterator<Item = Merge<'a>> {
        let is_merged = |text: &str| {
            match self.ids.get(text) {
                Some(id) => self.pieces[*id as usize].kind != PieceKind::UserDefined,
                // Every character is there to be merged, a piece or not.
                None => text.chars().nth(1).is_none(),
            }
        };
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        cuts.filter(move |(left, right)| is_merged(left) && is_merged(right))
    }

    /// Pairs of pieces that are a piece together, with its score, in the order in which they are merged.
    fn merges(&self) -> Result<Vec<(f32, Merge<'_>)>, String> {
        let mut all: Vec<(f32, Merge<'_>)> = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.kind == PieceKind::Normal) {
            for (left, right) in self.merges_to(&piece.text) {
                if let Some(part) = [left, right].into_iter().find(|part| !self.ids.contains_key(*part)) {
                    return Err(format!("its piece {:?} is merged of {part:?}, which is none", piece.text));
                }
                all.push((piece.score, (left, right)));
            }
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut merges = Vec::with_capacity(all.len());
        for equal in all.chunk_by(|a, b| a.0 == b.0) {
            let score = equal[0].0;
            if equal.len() > MAX_EQUAL {
                return Err(format!("{} of its merges have the score {score}, too many to rank", equal.len()));
            }
            let mut ordered = Vec::with_capacity(equal.len());
            in_order(equal.iter().map(|(_, merge)| *merge).collect(), &mut ordered)?;
            merges.extend(ordered.into_iter().map(|merge| (score, merge)));
        }
        Ok(merges)
    }

    /// Texts in which a merge stands left of one of the same score that comes before it.
    fn inversions(&self) -> Result<Vec<String>, String> {
        let mut texts = Vec::new();
        for equal in self.merges()?.chunk_by(|a, b| a.0 == b.0) {
            let mut before: HashMap<&str, Vec<&str>> = HashMap::new();
            for (_, (left, right)) in equal {
                texts.extend(before.get(right).into_iter().flatten().map(|last| format!("{left}{right}{last}")));
                before.entry(left).or_default().push(right);
                if texts.len() > MAX_INVERSIONS {
                    return Err(format!("more than {MAX_INVERSIONS} of its merges overlap both ways"));
                }
            }
        }
        Ok(texts)
    }

    /// Refuses a tokenizer that gives other ids, or other text.
    fn compare(&self, tokenizer: &Tokenizer) -> Result<(), String> {
        let [.., escapes_spaces] = self.normalizer.spaces();
        let spelt = |text: &str| if escapes_spaces { text.replace(SPACE, " ") } else { text.to_owned() };
        let texts = self.pieces.iter().map(|piece| spelt(&piece.text));
        let text_of = |i: usize| spelt(&self.pieces[i % self.pieces.len()].text);
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
            let text = spelt(&piece.text);
            [2, 3, 5, 7, 16, 33, LONGEST_RUN].map(|count| text.repeat(count))
        });
        let inversions = self.inversions()?.into_iter().map(|text| spelt(&text));
        for text in texts.chain(mixed).chain(runs).chain(inversions) {
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
    use super::{super::proto, *};
    use std::path::Path;
    use tokenizers::{NormalizedString, Normalizer, normalizers::Precompiled};

    /// A model of these pieces, and an unknown one, that leaves spaces as they are.
    fn model(pieces: &[(&str, f32, PieceKind)]) -> SentencePiece {
        let pieces = [("<unk>", 0.0, PieceKind::Unknown)].iter().chain(pieces);
        let pieces = pieces.map(|(text, score, kind)| Piece { text: (*text).into(), score: *score, kind: *kind });
        let model = proto::Model {
            pieces: pieces.collect(),
            kind: proto::BPE,
            byte_fallback: false,
            charsmap: Vec::new(),
            add_dummy_prefix: false,
            remove_extra_whitespaces: false,
            escape_whitespaces: false,
        };
        let mut model = SentencePiece::new(model).unwrap();
        model.special.insert(0, "<unk>", true);
        model
    }

    /// Every list of some of these merges.
    fn lists<'a>(merges: &[Merge<'a>]) -> Vec<Vec<Merge<'a>>> {
        let begun = (0..merges.len()).flat_map(|first| {
            let others: Vec<Merge<'_>> = merges.iter().copied().filter(|other| *other != merges[first]).collect();
            lists(&others).into_iter().map(move |rest| [vec![merges[first]], rest].concat())
        });
        begun.chain([Vec::new()]).collect()
    }

    /// Whether some list of merges gives these texts the pieces that the model gives them.
    fn has_list(model: &SentencePiece, texts: &[&str]) -> bool {
        let vocab: Vocab = model.all_pieces().map(|(text, id)| (text.to_owned(), id)).collect();
        let cuts = |text: &'static str| text.char_indices().skip(1).map(move |(at, _)| text.split_at(at));
        let merges: Vec<Merge<'static>> = model
            .pieces
            .iter()
            .filter(|piece| piece.kind != PieceKind::Unknown)
            .flat_map(|piece| cuts(piece.text.clone().leak()))
            .filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right))
            .collect();
        lists(&merges).into_iter().any(|list| {
            let list = list.into_iter().map(|(left, right)| (left.to_owned(), right.to_owned())).collect();
            let tokenizer = Tokenizer::new(BPE::builder().vocab_and_merges(vocab.clone(), list).build().unwrap());
            texts.iter().all(|text| tokenizer.encode_fast(*text, false).unwrap().get_ids() == model.encode(text, false))
        })
    }

    #[test]
    fn no_list_of_merges_takes_the_leftmost_of_two_that_overlap_both_ways() {
        let letters = ["a", "b"].map(|letter| (letter, -9.0, PieceKind::Normal));
        let of =
            |ba| model(&[&letters[..], &[("ab", -1.0, PieceKind::Normal), ("ba", ba, PieceKind::Normal)]].concat());
        let texts = ["aba", "bab"];
        assert!(!has_list(&of(-1.0), &texts));
        assert!(of(-1.0).to_json().unwrap_err().contains("other ids"));
        assert!(has_list(&of(-2.0), &texts));
        assert!(of(-2.0).to_json().is_ok());
    }

    #[test]
    fn no_list_of_merges_takes_a_piece_apart_again() {
        let letters = ["a", "b", "c"].map(|letter| (letter, -9.0, PieceKind::Normal));
        let of = |kind| model(&[&letters[..], &[("ab", -1.0, kind), ("bc", -2.0, PieceKind::Normal)]].concat());
        let texts = ["abc", "bc"];
        assert!(!has_list(&of(PieceKind::Unused), &texts));
        assert!(of(PieceKind::Unused).to_json().unwrap_err().contains("only a step"));
        assert!(has_list(&of(PieceKind::Normal), &texts));
        assert!(of(PieceKind::Normal).to_json().is_ok());
    }

    /// The library has a part for rules; it drops what stands behind the replaced character in its grapheme.
    #[test]
    fn the_librarys_rules_for_characters_are_others() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/sentencepiece/folded.model");
        let model = proto::parse(&std::fs::read(file).unwrap()).unwrap();
        let library = Precompiled::from(&model.charsmap).unwrap();
        let own = SentencePiece::new(model).unwrap();
        for (text, wanted) in [("a\u{fb01}", ["\u{2581}afi", "afi"]), ("\u{fb01}\u{301}", ["\u{2581}fi\u{301}", "fi"])]
        {
            let mut normalized = NormalizedString::from(text);
            library.normalize(&mut normalized).unwrap();
            assert_eq!([own.normalizer.normalize(text, &own.user_defined).as_str(), normalized.get()], wanted);
        }
    }

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
