//! The functions that every file knows.

use crate::{
    Result,
    args::Args,
    heap::{Dict, V},
    interp::Interp,
    ops::{Number, number},
};
use std::cmp::Ordering;

/// Functions that exist.
const KNOWN: &[&str] = &[
    "abs",
    "all",
    "any",
    "bool",
    "chr",
    "dict",
    "divmod",
    "enumerate",
    "filter",
    "float",
    "frozenset",
    "globals",
    "int",
    "isinstance",
    "iter",
    "len",
    "list",
    "locals",
    "map",
    "max",
    "min",
    "next",
    "ord",
    "pow",
    "print",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
];

/// Functions of Python that a configuration may not have, and why.
const REFUSED: &[(&str, &str)] = &[
    ("open", "configurations cannot open files"),
    ("eval", "configurations cannot evaluate text"),
    ("exec", "configurations cannot execute text"),
    ("compile", "configurations cannot execute text"),
    ("__import__", "configurations import with `import` lines only"),
    ("input", "configurations cannot ask"),
    ("getattr", "attributes cannot be looked up by text in configurations"),
    ("setattr", "attributes cannot be set by text in configurations"),
    ("hasattr", "attributes cannot be looked up by text in configurations"),
    ("vars", "`locals()` has the variables"),
    ("type", "types cannot be looked at in configurations"),
    ("object", "there are no classes in configurations"),
    ("super", "there are no classes in configurations"),
    ("breakpoint", "there is no debugger"),
    ("exit", "a configuration cannot end the program"),
    ("quit", "a configuration cannot end the program"),
];

/// The function of this name.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    KNOWN.iter().copied().chain(REFUSED.iter().map(|(name, _)| *name)).find(|known| *known == name)
}

impl Interp<'_> {
    pub(crate) fn builtin(&mut self, name: &str, mut args: Args) -> Result<V> {
        if let Some((name, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(self.fail(format!("{name}() is refused: {why}")));
        }
        match name {
            "dict" => {
                let dict = self.new_dict(Dict::default())?;
                for other in &args.positional {
                    self.merge(dict, other)?;
                }
                for (key, value) in args.named {
                    self.set(dict, &key, value)?;
                }
                return Ok(V::Dict(dict));
            }
            "print" => return Ok(V::None),
            "max" | "min" => return self.extreme(name, args),
            "sorted" => return self.sorted(args),
            "sum" | "enumerate" => {
                // The second argument may be given by name.
                let second = args.take("start");
                args.positional.extend(second);
            }
            "zip" => {
                args.take("strict");
            }
            _ => {}
        }
        if let Some((key, _)) = args.named.first() {
            return Err(self.fail(format!("{name}() does not take `{key}` here")));
        }
        self.function_of_position(name, &args.positional)
    }

    fn function_of_position(&mut self, name: &str, args: &[V]) -> Result<V> {
        let wrong = |this: &Self| {
            let kinds: Vec<&str> = args.iter().map(|arg| this.kind(arg)).collect();
            this.fail(format!("{name}() does not take ({})", kinds.join(", ")))
        };
        Ok(match (name, args) {
            ("list" | "iter", []) => self.list(Vec::new())?,
            ("list" | "iter", [v]) => {
                let items = self.iterate(v)?;
                self.list(items)?
            }
            ("tuple", []) => self.tuple(Vec::new())?,
            ("tuple", [v]) => {
                let items = self.iterate(v)?;
                self.tuple(items)?
            }
            ("set" | "frozenset", []) => self.new_set(Vec::new())?,
            ("set" | "frozenset", [v]) => {
                let items = self.iterate(v)?;
                self.new_set(items)?
            }
            ("reversed", [v]) => {
                let mut items = self.iterate(v)?;
                items.reverse();
                self.list(items)?
            }
            ("str", []) => self.str("")?,
            ("str", [v]) => {
                let text = self.display(v)?;
                self.str(text)?
            }
            ("repr", [v]) => {
                let text = self.repr(v)?;
                self.str(text)?
            }
            ("bool", []) => V::Bool(false),
            ("bool", [v]) => V::Bool(self.truth(v)),
            ("int", []) => V::Int(0),
            ("int", [v]) => match (number(v), v) {
                (Some(Number::Int(n)), _) => V::Int(n),
                (Some(Number::Float(x)), _) if x.is_finite() && x.abs() < 9.2e18 => V::Int(x as i64),
                (_, V::Str(text)) => match text.trim().replace('_', "").parse() {
                    Ok(n) => V::Int(n),
                    Err(_) => return Err(self.fail(format!("`{}` is no whole number", head(text)))),
                },
                _ => return Err(wrong(self)),
            },
            ("float", [v]) => match (number(v), v) {
                (Some(n), _) => V::Float(n.float()),
                (_, V::Str(text)) => match text.trim().parse() {
                    Ok(x) => V::Float(x),
                    Err(_) => return Err(self.fail(format!("`{}` is no number", head(text)))),
                },
                _ => return Err(wrong(self)),
            },
            ("len", [v]) => {
                let len = match v {
                    V::Str(text) => text.chars().count(),
                    V::List(id) | V::Tuple(id) => self.items(*id).len(),
                    V::Dict(id) | V::Set(id) => self.dict(*id).entries.len(),
                    V::Range(..) => self.iterate(v)?.len(),
                    _ => return Err(wrong(self)),
                };
                V::Int(len as i64)
            }
            ("range", [V::Int(stop)]) => V::Range(0, *stop, 1),
            ("range", [V::Int(start), V::Int(stop)]) => V::Range(*start, *stop, 1),
            ("range", [V::Int(start), V::Int(stop), V::Int(step)]) if *step != 0 => V::Range(*start, *stop, *step),
            ("enumerate", [v, rest @ ..]) if rest.len() < 2 => {
                let start = match rest {
                    [V::Int(n)] => *n,
                    _ => 0,
                };
                let items = self.iterate(v)?;
                let pairs = items.into_iter().zip(start..).map(|(item, n)| self.tuple(vec![V::Int(n), item]));
                let pairs = pairs.collect::<Result<Vec<_>>>()?;
                self.list(pairs)?
            }
            ("zip", columns) => {
                let columns = columns.iter().map(|c| self.iterate(c)).collect::<Result<Vec<_>>>()?;
                let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
                let row = |this: &mut Self, i: usize| this.tuple(columns.iter().map(|c| c[i].clone()).collect());
                let rows = (0..rows).map(|i| row(self, i)).collect::<Result<Vec<_>>>()?;
                self.list(rows)?
            }
            ("sum", [v, rest @ ..]) if rest.len() < 2 => {
                let mut total = rest.first().cloned().unwrap_or(V::Int(0));
                let items = self.iterate(v)?;
                // As in Python the start is left alone; a list of our own grows in place instead of being copied.
                if let V::List(start) = total {
                    let start = self.items(start).clone();
                    let V::List(sum) = self.list(start)? else { return Err(wrong(self)) };
                    for item in items {
                        let V::List(item) = item else {
                            return Err(self.fail(format!("sum() adds lists here, but found {}", self.kind(&item))));
                        };
                        for item in self.items(item).clone() {
                            self.push(sum, item)?;
                        }
                    }
                    return Ok(V::List(sum));
                }
                for item in items {
                    total = self.binary(ruff_python_ast::Operator::Add, &total, &item)?;
                }
                total
            }
            ("all", [v]) => {
                let items = self.iterate(v)?;
                V::Bool(items.iter().all(|item| self.truth(item)))
            }
            ("any", [v]) => {
                let items = self.iterate(v)?;
                V::Bool(items.iter().any(|item| self.truth(item)))
            }
            ("map", [function, columns @ ..]) if !columns.is_empty() => {
                let rows = self.function_of_position("zip", columns)?;
                let mut items = Vec::new();
                for row in self.iterate(&rows)? {
                    let row = self.iterate(&row)?;
                    items.push(self.call(function, Args::of(row))?);
                }
                self.list(items)?
            }
            ("filter", [function, v]) => {
                let mut items = Vec::new();
                for item in self.iterate(v)? {
                    let test = match function {
                        V::None => item.clone(),
                        function => self.call(function, Args::of(vec![item.clone()]))?,
                    };
                    if self.truth(&test) {
                        items.push(item);
                    }
                }
                self.list(items)?
            }
            ("next", [v, rest @ ..]) if rest.len() < 2 => match self.iterate(v)?.into_iter().next() {
                Some(item) => item,
                None => rest.first().cloned().ok_or_else(|| self.fail("next() found nothing"))?,
            },
            ("abs", [v]) => match number(v) {
                Some(Number::Int(n)) => V::Int(n.checked_abs().ok_or_else(|| wrong(self))?),
                Some(Number::Float(x)) => V::Float(x.abs()),
                None => return Err(wrong(self)),
            },
            ("round", [v]) => match number(v) {
                Some(Number::Int(n)) => V::Int(n),
                Some(Number::Float(x)) if x.is_finite() && x.abs() < 9e18 => V::Int(x.round_ties_even() as i64),
                _ => return Err(wrong(self)),
            },
            ("round", [v, V::Int(digits @ 0..=15)]) => match number(v) {
                Some(Number::Int(n)) => V::Int(n),
                // Rust rounds the exact decimal value, as Python does.
                Some(Number::Float(x)) => {
                    V::Float(format!("{x:.*}", usize::try_from(*digits).unwrap_or(0)).parse().unwrap_or(x))
                }
                None => return Err(wrong(self)),
            },
            ("divmod", [a, b]) => {
                let quotient = self.binary(ruff_python_ast::Operator::FloorDiv, a, b)?;
                let rest = self.binary(ruff_python_ast::Operator::Mod, a, b)?;
                self.tuple(vec![quotient, rest])?
            }
            ("pow", [a, b]) => self.binary(ruff_python_ast::Operator::Pow, a, b)?,
            ("chr", [V::Int(n)]) => match u32::try_from(*n).ok().and_then(char::from_u32) {
                Some(c) => self.str(c.to_string())?,
                None => return Err(wrong(self)),
            },
            ("ord", [V::Str(text)]) if text.chars().count() == 1 => {
                V::Int(text.chars().next().map_or(0, |c| i64::from(u32::from(c))))
            }
            ("isinstance", [v, class]) => {
                let classes = if let V::Tuple(id) = class { self.items(*id).clone() } else { vec![class.clone()] };
                V::Bool(classes.iter().any(|class| is_instance(v, class)))
            }
            _ if name.contains('.') => return self.module_function(name, args),
            _ => return Err(wrong(self)),
        })
    }

    fn extreme(&mut self, name: &str, mut args: Args) -> Result<V> {
        let (key, default) = (args.take("key"), args.take("default"));
        let items = match &args.positional[..] {
            [one] => self.iterate(one)?,
            many => many.to_vec(),
        };
        let wanted = if name == "max" { Ordering::Greater } else { Ordering::Less };
        let mut best: Option<(V, V)> = None;
        for item in items {
            let rank = match &key {
                Some(key) => self.call(key, Args::of(vec![item.clone()]))?,
                None => item.clone(),
            };
            let is_better = match &best {
                Some((best, _)) => self.order(&rank, best)? == Some(wanted),
                None => true,
            };
            if is_better {
                best = Some((rank, item));
            }
        }
        best.map(|(_, item)| item).or(default).ok_or_else(|| self.fail(format!("{name}() of nothing")))
    }

    /// `sorted(…)`, also for `list.sort`.
    pub(crate) fn sorted(&mut self, mut args: Args) -> Result<V> {
        let key = args.take("key").filter(|key| !matches!(key, V::None));
        let is_reversed = args.take("reverse").is_some_and(|v| self.truth(&v));
        let [v] = &args.positional[..] else { return Err(self.fail("sorted() takes one list")) };
        let mut items = self.iterate(v)?;
        if is_reversed {
            items.reverse();
        }
        let mut ranked = Vec::with_capacity(items.len());
        for item in items {
            let rank = match &key {
                Some(key) => self.call(key, Args::of(vec![item.clone()]))?,
                None => item.clone(),
            };
            ranked.push((rank, item));
        }
        let mut sorted: Vec<V> = self.sort(ranked)?.into_iter().map(|(_, item)| item).collect();
        // Reversed before and after, so that equal items keep their order.
        if is_reversed {
            sorted.reverse();
        }
        self.list(sorted)
    }
}

fn is_instance(v: &V, class: &V) -> bool {
    let V::Builtin(class) = class else { return false };
    match v {
        V::Bool(_) => matches!(*class, "bool" | "int"),
        V::Int(_) => *class == "int",
        V::Float(_) => *class == "float",
        V::Str(_) => *class == "str",
        V::List(_) => *class == "list",
        V::Tuple(_) => *class == "tuple",
        V::Dict(_) => *class == "dict",
        V::Set(_) => matches!(*class, "set" | "frozenset"),
        _ => false,
    }
}

/// The beginning of a text, for messages.
fn head(text: &str) -> String {
    text.chars().take(40).collect()
}
