//! A SentencePiece model as a `tokenizer.json`, where one gives the same ids.
//!
//! Both merge neighbours until no two are a piece. SentencePiece takes the pair whose piece has the best score, and the
//! leftmost of several; a `tokenizer.json` takes the pair that comes first in a list. With a list by scores they differ only
//! among equal scores: where such pairs overlap, the left one has to come first, and where they do not, one of them may lead to
//! a piece that overlaps the other. Spaces are added, collapsed and escaped by
//! expressions, and symbols are words (`symbols.rs`). What has no counterpart is refused (rules for characters, pieces that are
//! taken apart again, equal scores that no list ranks: the tests show why), and what has one is compared on every piece, on
//! pieces beside one another, on runs, and where equal scores might go wrong, before it is given out.

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
const MAX_RISKY: usize = 1 << 17;

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
        self.check_tokens(&tokenizer)?;
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
            // What is merged to it would have to be taken apart again; versions of the library differ for a character.
            let is_character = text.chars().nth(1).is_none() && text != "\0";
            if *kind == PieceKind::Unused && (is_character || self.merges_to(text).next().is_some()) {
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

    /// Refuses tokens that would have other ids, or be left out of decoded text where they are not, or the other way round.
    fn check_tokens(&self, tokenizer: &Tokenizer) -> Result<(), String> {
        let added = tokenizer.get_added_tokens_decoder();
        for id in 0..self.vocab_size() as u32 {
            let (wanted, found) = (self.token(id), tokenizer.id_to_token(id));
            let is_zero = found.as_deref() == Some(ZERO);
            if wanted != found && !is_zero || self.is_special(id) != added.get(&id).is_some_and(|token| token.special) {
                return Err(format!("its token {id}, {:?}, would not be the same", wanted.unwrap_or_default()));
            }
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
        for equal in all.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
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

    /// Texts in which pairs of equal scores might be merged in another order.
    fn risky_texts(&self) -> Result<Vec<String>, String> {
        let merges = self.merges()?;
        let mut texts = Vec::new();
        let mut add = |left: &str, middle: &str, right: &str| {
            texts.push(format!("{left}{middle}{right}"));
            match texts.len() > MAX_RISKY {
                true => Err(format!("more than {MAX_RISKY} of its merges might stand in each other's way")),
                false => Ok(()),
            }
        };
        // A merge stands left of one of the same score that comes before it.
        for equal in merges.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
            let mut before: HashMap<&str, Vec<&str>> = HashMap::new();
            for (_, (left, right)) in equal {
                before.get(right).into_iter().flatten().try_for_each(|last| add(left, right, last))?;
                before.entry(left).or_default().push(right);
            }
        }
        // One of two that overlap begins with a piece on whose way a pair has the score of the other, or of one on the other's
        // way: which of these comes first decides which of the two there will be.
        let least = least_scores(&merges);
        let least = |piece: &str| least.get(piece).copied().unwrap_or(f32::INFINITY);
        let mut lefts: HashMap<&str, Vec<Outer<'_>>> = HashMap::new();
        let mut rights: HashMap<&str, Vec<Outer<'_>>> = HashMap::new();
        for (score, (left, right)) in &merges {
            lefts.entry(right).or_default().push(Outer { text: left, score: *score, least: least(left) });
            rights.entry(left).or_default().push(Outer { text: right, score: *score, least: least(right) });
        }
        for (middle, lefts) in &lefts {
            let Some(rights) = rights.get(middle) else { continue };
            let by = |outers: &[Outer<'_>], key: fn(&Outer<'_>) -> f32| {
                let mut by: HashMap<u32, Vec<usize>> = HashMap::new();
                outers.iter().enumerate().for_each(|(i, outer)| by.entry(key(outer).to_bits()).or_default().push(i));
                by
            };
            let [left_scores, right_scores] = [lefts, rights].map(|outers| by(outers, |outer| outer.score));
            let right_least = by(rights, |outer| outer.least);
            let of =
                |map: &HashMap<u32, Vec<usize>>, score: f32| map.get(&score.to_bits()).cloned().unwrap_or_default();
            // A character is there from the beginning.
            for left in lefts.iter().filter(|left| left.least.is_finite()) {
                for right in of(&right_scores, left.least).into_iter().map(|i| &rights[i]) {
                    if left.score >= right.score {
                        add(left.text, middle, right.text)?;
                    }
                }
                for right in of(&right_least, left.least).into_iter().map(|i| &rights[i]) {
                    if left.least <= left.score.max(right.score) {
                        add(left.text, middle, right.text)?;
                    }
                }
            }
            for right in rights.iter().filter(|right| right.least.is_finite()) {
                for left in of(&left_scores, right.least).into_iter().map(|i| &lefts[i]) {
                    if right.score >= left.score {
                        add(left.text, middle, right.text)?;
                    }
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
        let risky = self.risky_texts()?.into_iter().map(|text| spelt(&text));
        // One that is no piece, alone and among others.
        let unknown = ('\u{f0000}'..='\u{ffffd}').find(|c| !self.ids.contains_key(c.to_string().as_str()));
        let unknown = unknown.into_iter().flat_map(|c| [format!("{c}"), format!("{}{c}{c}{}", text_of(1), text_of(2))]);
        for text in texts.chain(mixed).chain(runs).chain(risky).chain(unknown) {
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

/// The piece on one side of a merge.
struct Outer<'a> {
    text: &'a str,
    /// Of the merge.
    score: f32,
    /// See [`least_scores`].
    least: f32,
}

/// The lowest score on the way to each piece that is merged, on the way on which that is highest.
fn least_scores<'a>(merges: &[(f32, Merge<'a>)]) -> HashMap<String, f32> {
    let mut by_length: Vec<&(f32, Merge<'a>)> = merges.iter().collect();
    by_length.sort_by_key(|(_, (left, right))| left.len() + right.len());
    let mut least: HashMap<String, f32> = HashMap::new();
    for (score, (left, right)) in by_length {
        let of = |part: &str| least.get(part).copied().unwrap_or(f32::INFINITY);
        let found = score.min(of(left)).min(of(right));
        let best = least.entry(format!("{left}{right}")).or_insert(found);
        *best = best.max(found);
    }
    least
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
        let is_before = |merge: &Merge<'a>, of_others: bool| {
            let mut before = ending.get(merge.0).into_iter().flatten().filter(|other| *other != merge);
            let is_same = |other: &Merge<'a>| other.0.len() + other.1.len() == merge.0.len() + merge.1.len();
            before.any(|other| !(of_others && is_same(other)))
        };
        let next = rest.iter().position(|merge| !is_before(merge, false));
        let Some(next) = next.or_else(|| rest.iter().position(|merge| !is_before(merge, true))) else {
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

    /// "ab" and "cd" do not overlap, but "abc", which the one leads to, overlaps the other.
    #[test]
    fn pairs_that_do_not_overlap_may_lead_to_such_that_do() {
        let filler: Vec<String> = ('\u{4e00}'..'\u{7000}').map(String::from).collect();
        let letters = ["a", "b", "c", "d"].into_iter().chain(filler.iter().map(String::as_str));
        let letters: Vec<(&str, f32, PieceKind)> = letters.map(|letter| (letter, -9.0, PieceKind::Normal)).collect();
        for score in [-1.0, -0.5] {
            let of = |pieces: [(&'static str, f32); 3]| {
                model(&[&letters[..], &pieces.map(|(text, score)| (text, score, PieceKind::Normal))].concat())
            };
            let refused = of([("cd", -1.0), ("ab", -1.0), ("abc", score)]).to_json();
            assert!(refused.unwrap_err().contains("\"abcd\" other ids"));
            assert!(of([("ab", -1.0), ("cd", -1.0), ("abc", score)]).to_json().is_ok());
        }
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
