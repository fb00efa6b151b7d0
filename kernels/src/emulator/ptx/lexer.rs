//! PTX text → tokens, each with its line.

use super::PtxError;

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tok<'a> {
    /// A name, a register, a directive or an opcode with its modifiers.
    Word(&'a str),
    /// An integer literal, as its 64 bits.
    Int(u64),
    /// `0f…`, as bits.
    F32(u32),
    /// `0d…` or a decimal fraction, as bits.
    F64(u64),
    /// A string without its quotes.
    Str(&'a str),
    /// Anything else, one character.
    Punct(char),
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) tok: Tok<'a>,
    pub(crate) line: u32,
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn is_word(c: u8) -> bool {
    is_word_start(c) || c.is_ascii_digit()
}

/// Splits `text`; comments disappear.
pub(crate) fn lex(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let mut tokens = Vec::with_capacity(text.len() / 6);
    let (mut i, mut line) = (0, 1);
    while i < bytes.len() {
        let c = bytes[i];
        if c == b'\n' {
            line += 1;
            i += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            i += 1;
        } else if c == b'/' && at(i + 1) == b'/' {
            while i < bytes.len() && bytes[i] != b'\n' {
                i += 1;
            }
        } else if c == b'/' && at(i + 1) == b'*' {
            let end = text[i + 2..].find("*/").ok_or_else(|| PtxError::new(line, "comment without an end"))?;
            line += text[i..i + 2 + end].matches('\n').count() as u32;
            i += end + 4;
        } else if c == b'"' {
            let end = text[i + 1..].find('"').ok_or_else(|| PtxError::new(line, "string without an end"))?;
            tokens.push(Token { tok: Tok::Str(&text[i + 1..i + 1 + end]), line });
            line += text[i..i + 1 + end].matches('\n').count() as u32;
            i += end + 2;
        } else if c.is_ascii_digit() {
            let start = i;
            while is_word(at(i)) || (matches!(at(i), b'+' | b'-') && is_decimal_exponent(&bytes[start..i])) {
                i += 1;
            }
            let number = &text[start..i];
            let tok = number_token(number).ok_or_else(|| PtxError::new(line, format!("`{number}` is no number")))?;
            tokens.push(Token { tok, line });
        } else if is_word_start(c) {
            let start = i;
            // Directives may stand together, as in `.reg.b32`. `::` belongs to modifiers such as `.L2::128B`; a single
            // colon ends a label.
            let directive = c == b'.';
            i += 1;
            while (is_word(at(i)) && !(directive && at(i) == b'.')) || (at(i) == b':' && at(i + 1) == b':') {
                i += if at(i) == b':' { 2 } else { 1 };
            }
            tokens.push(Token { tok: Tok::Word(&text[start..i]), line });
        } else if c.is_ascii() {
            tokens.push(Token { tok: Tok::Punct(char::from(c)), line });
            i += 1;
        } else {
            let found = text[i..].chars().next().unwrap_or('?');
            return Err(PtxError::new(line, format!("unexpected character `{found}`")));
        }
    }
    Ok(tokens)
}

/// Whether what was read so far is `1.5e`, so that a sign may follow.
fn is_decimal_exponent(read: &[u8]) -> bool {
    matches!(read.last(), Some(b'e' | b'E')) && read.contains(&b'.')
}

fn number_token(number: &str) -> Option<Tok<'_>> {
    let lower = number.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f").filter(|hex| hex.len() == 8) {
        return u32::from_str_radix(hex, 16).ok().map(Tok::F32);
    }
    if let Some(hex) = lower.strip_prefix("0d").filter(|hex| hex.len() == 16) {
        return u64::from_str_radix(hex, 16).ok().map(Tok::F64);
    }
    if lower.contains('.') {
        return lower.parse::<f64>().ok().map(|x| Tok::F64(x.to_bits()));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let int = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    int.ok().map(Tok::Int)
}
