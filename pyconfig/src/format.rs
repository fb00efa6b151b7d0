//! Values as text: `str`, `repr`, f-strings, `str.format` and `%`.

use crate::{
    Result,
    args::Args,
    heap::{Object, V},
    interp::{Env, Interp},
    ops::{Number, number},
};
use ruff_python_ast::{self as ast, FStringPart, InterpolatedStringElement};

/// Widest padding and most decimals.
const MAX_WIDTH: usize = 10_000;

impl Interp<'_> {
    /// Python's `str`.
    pub(crate) fn display(&mut self, v: &V) -> Result<String> {
        match v {
            V::Str(text) => {
                self.charge(text.len())?;
                Ok(text.to_string())
            }
            other => self.repr(other),
        }
    }

    /// Python's `repr`.
    pub(crate) fn repr(&mut self, v: &V) -> Result<String> {
        self.enter()?;
        let text = match v {
            V::None => "None".into(),
            V::Ellipsis => "Ellipsis".into(),
            V::Bool(true) => "True".into(),
            V::Bool(false) => "False".into(),
            V::Int(n) => n.to_string(),
            V::Float(x) => float(*x),
            V::Str(text) => quoted(text),
            V::List(id) => format!("[{}]", self.repr_all(*id)?.join(", ")),
            V::Tuple(id) => {
                let items = self.repr_all(*id)?;
                if items.len() == 1 { format!("({},)", items[0]) } else { format!("({})", items.join(", ")) }
            }
            V::Set(id) => {
                let mut items = Vec::new();
                for (key, _) in self.dict(*id).entries.clone() {
                    items.push(self.repr(&key)?);
                }
                if items.is_empty() { "set()".into() } else { format!("{{{}}}", items.join(", ")) }
            }
            V::Dict(id) => {
                let mut items = Vec::new();
                for (key, value) in self.dict(*id).entries.clone() {
                    items.push(format!("{}: {}", self.repr(&key)?, self.repr(&value)?));
                }
                format!("{{{}}}", items.join(", "))
            }
            V::Range(start, stop, 1) => format!("range({start}, {stop})"),
            V::Range(start, stop, step) => format!("range({start}, {stop}, {step})"),
            V::Name(id) => self.dotted(*id).to_string(),
            V::Builtin(name) => format!("<function {name}>"),
            V::Module(name) => format!("<module '{name}'>"),
            V::Function(id) => match &self.heap[*id] {
                Object::Function(function) => format!("<function {}>", function.name),
                other => unreachable!("a function, not {other:?}"),
            },
            V::Method(_) => "<method>".into(),
        };
        self.charge(text.len())?;
        self.leave();
        Ok(text)
    }

    fn repr_all(&mut self, id: usize) -> Result<Vec<String>> {
        let items = self.items(id).clone();
        items.iter().map(|item| self.repr(item)).collect()
    }

    pub(crate) fn f_string(&mut self, e: &ast::ExprFString, env: Env) -> Result<V> {
        let mut text = String::new();
        for part in e.value.iter() {
            match part {
                FStringPart::Literal(literal) => text += &literal.value,
                FStringPart::FString(f_string) => self.f_elements(&f_string.elements, env, &mut text)?,
            }
        }
        self.str(text)
    }

    fn f_elements(&mut self, elements: &[InterpolatedStringElement], env: Env, text: &mut String) -> Result<()> {
        for element in elements {
            match element {
                InterpolatedStringElement::Literal(literal) => *text += &literal.value,
                InterpolatedStringElement::Interpolation(e) => {
                    let value = self.eval(&e.expression, env)?;
                    if let Some(debug) = &e.debug_text {
                        let source = format!("{}{}", debug.leading, debug.trailing);
                        return Err(self.fail(format!("`{{…=}}` is not supported in configurations ({source})")));
                    }
                    let value = match e.conversion {
                        ast::ConversionFlag::None => value,
                        ast::ConversionFlag::Str => V::Str(self.display(&value)?.into()),
                        ast::ConversionFlag::Repr | ast::ConversionFlag::Ascii => V::Str(self.repr(&value)?.into()),
                    };
                    let mut spec = String::new();
                    if let Some(elements) = &e.format_spec {
                        self.f_elements(&elements.elements, env, &mut spec)?;
                    }
                    *text += &self.format(&value, &spec)?;
                }
            }
            self.charge(text.len() >> 3)?;
        }
        Ok(())
    }

    /// Python's `format(value, spec)`.
    pub(crate) fn format(&mut self, v: &V, spec: &str) -> Result<String> {
        if spec.is_empty() {
            return self.display(v);
        }
        let Some(spec) = Spec::parse(spec) else {
            return Err(self.fail(format!("the format `{spec}` is not supported")));
        };
        if spec.width > MAX_WIDTH || spec.precision.unwrap_or(0) > MAX_WIDTH {
            return Err(self.fail(format!("widths beyond {MAX_WIDTH} are not supported")));
        }
        let unsupported = |this: &Self| this.fail(format!("`{}` does not format {}", spec.kind, this.kind(v)));
        let kind = match (spec.kind, number(v)) {
            (' ', None) => 's',
            (' ', Some(Number::Int(_))) => 'd',
            (kind, _) => kind,
        };
        let (body, is_number) = match (kind, number(v)) {
            ('s', None) => {
                let text = self.display(v)?;
                (text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect(), false)
            }
            ('d' | ',', Some(Number::Int(n))) => (n.to_string(), true),
            ('x', Some(Number::Int(n))) if n >= 0 => (format!("{n:x}"), true),
            ('X', Some(Number::Int(n))) if n >= 0 => (format!("{n:X}"), true),
            ('b', Some(Number::Int(n))) if n >= 0 => (format!("{n:b}"), true),
            ('o', Some(Number::Int(n))) if n >= 0 => (format!("{n:o}"), true),
            ('f' | 'F', Some(n)) => (format!("{:.*}", spec.precision.unwrap_or(6), n.float()), true),
            ('%', Some(n)) => (format!("{:.*}%", spec.precision.unwrap_or(6), n.float() * 100.0), true),
            (' ', Some(Number::Float(x))) if spec.precision.is_none() => (float(x), true),
            _ => return Err(unsupported(self)),
        };
        Ok(spec.pad(body, is_number))
    }

    /// `text % value`.
    pub(crate) fn percent(&mut self, text: &str, value: &V) -> Result<V> {
        let mut values = match value {
            V::Tuple(id) => self.items(*id).clone(),
            other => vec![other.clone()],
        }
        .into_iter();
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out += &rest[..at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                out.push('%');
                rest = after;
                continue;
            }
            let mut by_name = None;
            if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
                let key = self.str(name)?;
                by_name = Some(self.subscript(value, &key)?);
                rest = after;
            }
            let end =
                rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| self.fail("`%` ends without a kind"))?;
            let (flags, kind) = (&rest[..end], &rest[end..=end]);
            rest = &rest[end + 1..];
            let value = match by_name.or_else(|| values.next()) {
                Some(value) => value,
                None => return Err(self.fail("fewer values than `%` places")),
            };
            out += &match kind {
                "s" if flags.is_empty() => self.display(&value)?,
                "r" if flags.is_empty() => self.repr(&value)?,
                "i" => self.format(&value, &format!("{flags}d"))?,
                "s" => {
                    self.format(&value, &flags.strip_prefix('-').map_or(format!(">{flags}"), |f| format!("<{f}")))?
                }
                kind => self.format(&value, &format!("{flags}{kind}"))?,
            };
            self.charge(out.len() >> 3)?;
        }
        out += rest;
        self.str(out)
    }

    /// `text.format(…)`: fields are a name or a number, and keys in brackets; attributes are not looked up.
    pub(crate) fn format_method(&mut self, text: &str, args: &Args) -> Result<V> {
        let mut out = String::new();
        let mut next = 0;
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out += &rest[..at];
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out += brace;
                rest = after;
                continue;
            }
            let Some((field, after)) = rest.split_once('}').filter(|_| brace == "{") else {
                return Err(self.fail("a brace of a format stands alone; write it twice for itself"));
            };
            rest = after;
            let (field, spec) = field.split_once(':').unwrap_or((field, ""));
            let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
            let (name, keys) = field.find('[').map_or((field, ""), |at| field.split_at(at));
            if field.contains('.') && keys.is_empty() || spec.contains('{') {
                return Err(self.fail(format!("the field `{{{field}}}` of a format is not supported")));
            }
            let mut value = if name.is_empty() {
                next += 1;
                args.positional.get(next - 1).cloned()
            } else if let Ok(number) = name.parse::<usize>() {
                args.positional.get(number).cloned()
            } else {
                args.named.iter().find(|(n, _)| &**n == name).map(|(_, value)| value.clone())
            }
            .ok_or_else(|| self.fail(format!("the format's field `{{{field}}}` has no value")))?;
            for key in keys.split(['[', ']']).filter(|key| !key.is_empty()) {
                let key = match key.parse() {
                    Ok(number) => V::Int(number),
                    Err(_) => self.str(key)?,
                };
                value = self.subscript(&value, &key)?;
            }
            if conversion == "r" {
                value = V::Str(self.repr(&value)?.into());
            }
            out += &self.format(&value, spec)?;
            self.charge(out.len() >> 3)?;
        }
        out += rest;
        self.str(out)
    }
}

/// `[[fill]align][sign][0][width][,][.precision][kind]`.
#[derive(Debug)]
struct Spec {
    fill: char,
    align: Option<char>,
    has_plus: bool,
    width: usize,
    has_commas: bool,
    precision: Option<usize>,
    kind: char,
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let mut chars: Vec<char> = text.chars().collect();
        let mut spec =
            Self { fill: ' ', align: None, has_plus: false, width: 0, has_commas: false, precision: None, kind: ' ' };
        let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
        if chars.get(1).is_some_and(is_align) {
            (spec.fill, spec.align) = (chars[0], Some(chars[1]));
            chars.drain(..2);
        } else if chars.first().is_some_and(is_align) {
            spec.align = Some(chars.remove(0));
        }
        if let Some(sign) = chars.first().copied().filter(|c| matches!(c, '+' | '-')) {
            spec.has_plus = sign == '+';
            chars.remove(0);
        }
        if chars.first() == Some(&'0') {
            (spec.fill, spec.align) = ('0', spec.align.or(Some('=')));
            chars.remove(0);
        }
        let digits = |chars: &mut Vec<char>| {
            let end = chars.iter().position(|c| !c.is_ascii_digit()).unwrap_or(chars.len());
            chars.drain(..end).collect::<String>()
        };
        let width = digits(&mut chars);
        spec.width = if width.is_empty() { 0 } else { width.parse().ok()? };
        if chars.first() == Some(&',') {
            spec.has_commas = true;
            chars.remove(0);
        }
        if chars.first() == Some(&'.') {
            chars.remove(0);
            spec.precision = Some(digits(&mut chars).parse().ok()?);
        }
        if let Some(kind) = chars.pop() {
            spec.kind = kind;
        }
        chars.is_empty().then_some(spec)
    }

    fn pad(&self, body: String, is_number: bool) -> String {
        let (sign, digits) = match body.strip_prefix('-') {
            Some(digits) if is_number => ("-", digits.to_owned()),
            _ if is_number && self.has_plus => ("+", body),
            _ => ("", body),
        };
        let digits = if self.has_commas && is_number { commas(&digits) } else { digits };
        let missing = self.width.saturating_sub(sign.len() + digits.chars().count());
        let fill = |n: usize| String::from(self.fill).repeat(n);
        match self.align.unwrap_or(if is_number { '>' } else { '<' }) {
            '<' => format!("{sign}{digits}{}", fill(missing)),
            '^' => format!("{}{sign}{digits}{}", fill(missing / 2), fill(missing - missing / 2)),
            '=' => format!("{sign}{}{digits}", fill(missing)),
            _ => format!("{}{sign}{digits}", fill(missing)),
        }
    }
}

fn commas(digits: &str) -> String {
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut out = String::new();
    for (i, c) in digits[..end].chars().enumerate() {
        if i > 0 && (end - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out + &digits[end..]
}

/// `repr` of a float.
pub(crate) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `repr` of a string.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}
