//! How deep a source nests, found before it is parsed: the parser and the evaluator recurse.

use ruff_python_ast::token::TokenKind;
use ruff_python_parser::{Mode, lexer};

/// Brackets within brackets.
const MAX_BRACKETS: usize = 100;
/// Blocks within blocks.
const MAX_BLOCKS: usize = 50;
/// Operators, names and keywords between two commas of all open brackets: an expression nests no deeper.
const MAX_OPEN: usize = 2500;
/// `lambda`s in a line: their commas separate parameters, not expressions.
const MAX_LAMBDAS: usize = 50;

/// Why `source` is nested too deeply, and the line where that is found (strings of several lines count as one).
pub(crate) fn check(source: &str) -> Result<(), (String, u32)> {
    let mut lexer = lexer::lex(source, Mode::Module);
    // What stands in each open bracket since its last comma.
    let mut open = vec![0_usize];
    let (mut total, mut blocks, mut lambdas, mut line) = (0_usize, 0_usize, 0_usize, 1);
    loop {
        let kind = lexer.next_token();
        match kind {
            TokenKind::EndOfFile => return Ok(()),
            TokenKind::Lpar
            | TokenKind::Lsqb
            | TokenKind::Lbrace
            | TokenKind::FStringStart
            | TokenKind::TStringStart => {
                *open.last_mut().expect("one level at least") += 1;
                total += 1;
                open.push(0);
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace | TokenKind::FStringEnd | TokenKind::TStringEnd => {
                if open.len() > 1 {
                    total -= open.pop().unwrap_or_default();
                }
            }
            TokenKind::Comma | TokenKind::Newline | TokenKind::Semi => {
                total -= std::mem::take(open.last_mut().expect("one level at least"));
                if kind == TokenKind::Newline {
                    lambdas = 0;
                    line += 1;
                }
            }
            TokenKind::Indent => blocks += 1,
            TokenKind::Dedent => blocks = blocks.saturating_sub(1),
            TokenKind::String | TokenKind::FStringMiddle | TokenKind::Comment => {}
            TokenKind::NonLogicalNewline => line += 1,
            other => {
                lambdas += usize::from(other == TokenKind::Lambda);
                *open.last_mut().expect("one level at least") += 1;
                total += 1;
            }
        }
        if open.len() > MAX_BRACKETS {
            return Err((format!("more than {MAX_BRACKETS} brackets within each other"), line));
        }
        if blocks > MAX_BLOCKS {
            return Err((format!("more than {MAX_BLOCKS} blocks within each other"), line));
        }
        if total > MAX_OPEN || lambdas > MAX_LAMBDAS {
            return Err(("an expression that nests too deeply".into(), line));
        }
    }
}
