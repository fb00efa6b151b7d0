//! The tokenizer that a GGUF file describes: byte-level BPE from its token list, its merges and the name of its
//! pre-tokenizer. The splitting rules are those that the named models publish in their `tokenizer.json`.

use crate::{Error, Result, load::gguf::Gguf};
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    normalizers::unicode::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    processors::template::TemplateProcessing,
};

/// `tokenizer.ggml.token_type` of a special token.
const CONTROL: i64 = 3;
/// `tokenizer.ggml.token_type` of a token that is never split but is ordinary text.
const USER_DEFINED: i64 = 4;

/// How a tokenizer of a certain name splits text before merging.
struct Rules {
    /// `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Whether text is composed (Unicode NFC) first.
    nfc: bool,
    split: fn() -> Result<PreTokenizerWrapper, tokenizers::Error>,
    /// Whether a word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Whether a BOS is put in front unless the file says otherwise.
    add_bos: bool,
}

const RULES: &[Rules] = &[
    Rules { names: &["qwen2"], nfc: true, split: || split_words(r"\p{N}"), ignore_merges: false, add_bos: false },
    Rules {
        names: &["llama-bpe", "llama-v3", "llama3"],
        nfc: false,
        split: || split_words(r"\p{N}{1,3}"),
        ignore_merges: true,
        add_bos: true,
    },
    Rules { names: &["smollm"], nfc: false, split: split_digits, ignore_merges: false, add_bos: false },
    Rules { names: &["gpt-2"], nfc: false, split: || Ok(bytes(true).into()), ignore_merges: false, add_bos: false },
];

/// The pattern of GPT-4's family of tokenizers, with its rule for numbers, then bytes.
fn split_words(numbers: &str) -> Result<PreTokenizerWrapper, tokenizers::Error> {
    let pattern = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let split = Split::new(SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false)?;
    Ok(Sequence::new(vec![split.into(), bytes(false).into()]).into())
}

/// Every digit alone, then GPT-2's pattern and bytes.
fn split_digits() -> Result<PreTokenizerWrapper, tokenizers::Error> {
    Ok(Sequence::new(vec![Digits::new(true).into(), bytes(true).into()]).into())
}

/// Bytes spelt as characters; with `use_regex` after GPT-2's splitting pattern.
pub(super) fn bytes(use_regex: bool) -> ByteLevel {
    ByteLevel::new(false, true, use_regex)
}

/// Builds the tokenizer.
///
/// # Errors
/// [`Error::Malformed`] for inconsistent lists; [`Error::Unsupported`] for other kinds of tokenizers.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let rules = rules(gguf)?;
    let tokens = gguf.strings("tokenizer.ggml.tokens")?.ok_or_else(|| gguf.missing("tokenizer.ggml.tokens"))?;
    let merges = gguf.strings("tokenizer.ggml.merges")?.ok_or_else(|| gguf.missing("tokenizer.ggml.merges"))?;
    let mut ids = Vocab::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = ids.insert((*token).to_owned(), id as u32) {
            return Err(gguf.malformed(format!("tokens {first} and {id} are both {token:?}")));
        }
    }
    let refused = |e: tokenizers::Error| gguf.malformed(format!("tokenizer: {e}"));
    let model = model(ids, merges, rules.ignore_merges).map_err(|reason| gguf.malformed(reason))?;
    let mut tokenizer = Tokenizer::new(model);
    if rules.nfc {
        tokenizer.with_normalizer(Some(NormalizerWrapper::NFC(NFC)));
    }
    tokenizer.with_pre_tokenizer(Some((rules.split)().map_err(refused)?));
    tokenizer.with_decoder(Some(bytes(true)));
    add_special_tokens(gguf, &tokens, &mut tokenizer)?;
    let bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(rules.add_bos);
    let eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let bos = if bos { Some(special(gguf, "bos", &tokens)?.ok_or_else(|| no_special(gguf, "bos"))?) } else { None };
    let eos = if eos { Some(special(gguf, "eos", &tokens)?.ok_or_else(|| no_special(gguf, "eos"))?) } else { None };
    surround(&mut tokenizer, bos, eos).map_err(|reason| gguf.malformed(reason))?;
    Ok(tokenizer)
}

/// Byte-pair merges over a vocabulary, each two tokens with a space between.
///
/// # Errors
/// What is wrong with which merge.
pub(super) fn model<'a>(
    ids: Vocab,
    merges: impl IntoIterator<Item = &'a str>,
    ignore_merges: bool,
) -> Result<BPE, String> {
    let mut pairs = Vec::new();
    for (i, merge) in merges.into_iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
        let Some((left, right)) = pair else {
            return Err(format!("merge {i} is {merge:?}, but must be two tokens with a space between"));
        };
        for token in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(token) {
                return Err(format!("merge {i}, {merge:?}, needs the token {token:?}, which is absent"));
            }
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let bpe = BPE::builder().vocab_and_merges(ids, pairs).ignore_merges(ignore_merges).build();
    bpe.map_err(|e| format!("tokenizer: {e}"))
}

/// The token that the metadata names as `bos`, `eos`, `unknown` or `padding`.
///
/// # Errors
/// [`Error::Malformed`] for an id outside the vocabulary.
pub(super) fn special<'a>(gguf: &Gguf, which: &str, tokens: &[&'a str]) -> Result<Option<&'a str>> {
    let key = format!("tokenizer.ggml.{which}_token_id");
    let Some(id) = gguf.usize(&key)? else { return Ok(None) };
    match tokens.get(id) {
        Some(token) => Ok(Some(token)),
        None => Err(gguf.malformed(format!("`{key}` is {id}, but there are only {} tokens", tokens.len()))),
    }
}

/// Puts `bos` in front of and `eos` behind every text; neither: leaves it as it is.
pub(super) fn surround(tokenizer: &mut Tokenizer, bos: Option<&str>, eos: Option<&str>) -> Result<(), String> {
    if bos.is_none() && eos.is_none() {
        tokenizer.with_post_processor(None::<TemplateProcessing>);
        return Ok(());
    }
    let mut special = Vec::new();
    for token in [bos, eos].into_iter().flatten() {
        let id = tokenizer.token_to_id(token).ok_or_else(|| format!("the special token {token:?} has no id"))?;
        special.push((token.to_owned(), id));
    }
    // Pieces given one by one: a template as one string could not hold a token with a space in it.
    let pieces: Vec<String> = bos.into_iter().chain(["$A:0"]).chain(eos).map(|piece| piece.to_owned()).collect();
    special.dedup();
    let template = TemplateProcessing::builder()
        .try_single(pieces)
        .map_err(|e| e.to_string())?
        .special_tokens(special)
        .build()
        .map_err(|e| e.to_string())?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

fn no_special(gguf: &Gguf, which: &str) -> Error {
    gguf.malformed(format!("texts shall get a {which} token, but `tokenizer.ggml.{which}_token_id` is missing"))
}

fn rules(gguf: &Gguf) -> Result<&'static Rules> {
    let unsupported =
        |what: String, hint: String| Error::Unsupported { what: format!("{}: {what}", gguf.path().display()), hint };
    let model = gguf.str("tokenizer.ggml.model")?.ok_or_else(|| gguf.missing("tokenizer.ggml.model"))?;
    if model != "gpt2" {
        let hint = "GGUF files need byte-level BPE (`gpt2`); or give a folder with tokenizer.json as --tokenizer-path";
        return Err(unsupported(format!("a vocabulary of the kind `{model}`"), hint.into()));
    }
    let pre = gguf.str("tokenizer.ggml.pre")?.ok_or_else(|| gguf.missing("tokenizer.ggml.pre"))?;
    RULES.iter().find(|rules| rules.names.contains(&pre)).ok_or_else(|| {
        let known: Vec<&str> = RULES.iter().flat_map(|rules| rules.names).copied().collect();
        let hint = format!(
            "known ones are {}; another one would split text differently, so give a folder with tokenizer.json as \
             --tokenizer-path",
            known.join(", ")
        );
        unsupported(format!("the pre-tokenizer `{pre}`"), hint)
    })
}

/// Registers the tokens that are never split.
fn add_special_tokens(gguf: &Gguf, tokens: &[&str], tokenizer: &mut Tokenizer) -> Result<()> {
    let Some(types) = gguf.ints("tokenizer.ggml.token_type")? else { return Ok(()) };
    if types.len() != tokens.len() {
        let reason = format!("{} token types for {} tokens", types.len(), tokens.len());
        return Err(gguf.malformed(reason));
    }
    let added = |wanted: i64| -> Vec<AddedToken> {
        let of_kind = tokens.iter().zip(&types).filter(|(token, kind)| **kind == wanted && !token.is_empty());
        of_kind.map(|(token, _)| AddedToken::from(*token, wanted == CONTROL)).collect()
    };
    tokenizer.add_special_tokens(&added(CONTROL));
    let ordinary: Vec<AddedToken> = added(USER_DEFINED).into_iter().map(|token| token.normalized(false)).collect();
    tokenizer.add_tokens(&ordinary);
    Ok(())
}
