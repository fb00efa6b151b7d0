//! Operators, comparisons, indexing, iteration, and what is equal, true or smaller.

use crate::{
    Error, Result,
    heap::{Dict, Id, Key, Object, V},
    interp::Interp,
};
use ruff_python_ast::Operator;
use std::{cmp::Ordering, rc::Rc};

impl Interp<'_> {
    /// What a value is, for messages.
    pub(crate) fn kind(&self, v: &V) -> &'static str {
        match v {
            V::None => "None",
            V::Ellipsis => "...",
            V::Bool(_) => "a bool",
            V::Int(_) => "an int",
            V::Float(_) => "a float",
            V::Str(_) => "a str",
            V::List(_) => "a list",
            V::Tuple(_) => "a tuple",
            V::Dict(_) => "a dict",
            V::Set(_) => "a set",
            V::Range(..) => "a range",
            V::Function(_) | V::Method(_) | V::Builtin(_) => "a function",
            V::Module(_) => "a module",
            V::Name(_) => "an imported name",
        }
    }

    pub(crate) fn truth(&self, v: &V) -> bool {
        match v {
            V::None => false,
            V::Bool(b) => *b,
            V::Int(n) => *n != 0,
            V::Float(x) => *x != 0.0,
            V::Str(text) => !text.is_empty(),
            V::List(id) | V::Tuple(id) => !self.items(*id).is_empty(),
            V::Dict(id) | V::Set(id) => !self.dict(*id).entries.is_empty(),
            V::Range(start, stop, step) => range_len(*start, *stop, *step) > 0,
            _ => true,
        }
    }

    /// The dotted text of an imported name.
    pub(crate) fn dotted(&self, id: Id) -> Rc<str> {
        match &self.heap[id] {
            Object::Name(dotted, _) => dotted.clone(),
            other => unreachable!("a name, not {other:?}"),
        }
    }

    /// `v` as a key.
    pub(crate) fn key(&mut self, v: &V) -> Result<Key> {
        Ok(match v {
            V::None => Key::None,
            V::Bool(b) => Key::Int(i64::from(*b)),
            V::Int(n) => Key::Int(*n),
            V::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Key::Int(*x as i64),
            V::Float(x) => Key::Float(x.to_bits()),
            V::Str(text) => {
                self.step(text.len() >> 5)?;
                Key::Str(text.clone())
            }
            V::Name(id) => Key::Name(self.dotted(*id)),
            V::Builtin(name) => Key::Builtin(name),
            V::Tuple(id) => {
                self.enter()?;
                self.charge(self.items(*id).len() * size_of::<Key>())?;
                let items = self.items(*id).clone();
                let keys = items.iter().map(|item| self.key(item)).collect::<Result<_>>()?;
                self.leave();
                Key::Tuple(keys)
            }
            other => return Err(self.fail(format!("{} cannot be a key", self.kind(other)))),
        })
    }

    /// Python's `is`.
    pub(crate) fn same(&self, a: &V, b: &V) -> bool {
        match (a, b) {
            (V::None, V::None) | (V::Ellipsis, V::Ellipsis) => true,
            (V::Bool(a), V::Bool(b)) => a == b,
            (V::Int(a), V::Int(b)) => a == b,
            (V::Str(a), V::Str(b)) => a == b,
            (V::List(a), V::List(b)) | (V::Tuple(a), V::Tuple(b)) | (V::Dict(a), V::Dict(b)) => a == b,
            (V::Set(a), V::Set(b)) | (V::Function(a), V::Function(b)) => a == b,
            (V::Name(a), V::Name(b)) => self.dotted(*a) == self.dotted(*b),
            (V::Builtin(a), V::Builtin(b)) | (V::Module(a), V::Module(b)) => a == b,
            _ => false,
        }
    }

    pub(crate) fn equal(&mut self, a: &V, b: &V) -> Result<bool> {
        self.enter()?;
        let equal = match (a, b) {
            (V::List(a), V::List(b)) | (V::Tuple(a), V::Tuple(b)) => {
                let (a, b) = (self.items(*a).clone(), self.items(*b).clone());
                self.step(a.len())?;
                let mut equal = a.len() == b.len();
                for (a, b) in a.iter().zip(&b) {
                    equal = equal && self.equal(a, b)?;
                }
                equal
            }
            (V::Dict(a), V::Dict(b)) | (V::Set(a), V::Set(b)) => {
                let (a, b) = (self.dict(*a).clone(), self.dict(*b).clone());
                self.step(a.entries.len())?;
                let mut equal = a.entries.len() == b.entries.len();
                for (key, value) in &a.entries {
                    if !equal {
                        break;
                    }
                    let key = self.key(key)?;
                    equal = match b.get(&key) {
                        Some(other) => self.equal(value, other)?,
                        None => false,
                    };
                }
                equal
            }
            (V::Str(a), V::Str(b)) => {
                self.step(a.len().min(b.len()) >> 5)?;
                a == b
            }
            (V::Range(..), V::Range(..)) => {
                let (a, b) = (self.iterate(a)?, self.iterate(b)?);
                let (a, b) = (self.list(a)?, self.list(b)?);
                self.equal(&a, &b)?
            }
            _ => match (number(a), number(b)) {
                (Some(a), Some(b)) => a.compare(b) == Some(Ordering::Equal),
                _ => self.same(a, b),
            },
        };
        self.leave();
        Ok(equal)
    }

    /// How `a` compares with `b`; `None` where a NaN is one of them.
    pub(crate) fn order(&mut self, a: &V, b: &V) -> Result<Option<Ordering>> {
        if let (Some(a), Some(b)) = (number(a), number(b)) {
            return Ok(a.compare(b));
        }
        match (a, b) {
            (V::Str(a), V::Str(b)) => {
                self.step(a.len().min(b.len()) >> 5)?;
                Ok(Some(a.cmp(b)))
            }
            (V::List(x), V::List(y)) | (V::Tuple(x), V::Tuple(y)) => {
                let (x, y) = (self.items(*x).clone(), self.items(*y).clone());
                self.enter()?;
                for (a, b) in x.iter().zip(&y) {
                    self.step(1)?;
                    if !self.equal(a, b)? {
                        let order = self.order(a, b);
                        self.leave();
                        return order;
                    }
                }
                self.leave();
                Ok(Some(x.len().cmp(&y.len())))
            }
            _ => Err(self.fail(format!("{} and {} cannot be compared", self.kind(a), self.kind(b)))),
        }
    }

    /// Python's `in`.
    pub(crate) fn contains(&mut self, container: &V, item: &V) -> Result<bool> {
        match (container, item) {
            (V::Str(text), V::Str(part)) => {
                self.step(text.len() >> 4)?;
                Ok(text.contains(&**part))
            }
            (V::Dict(id) | V::Set(id), item) => {
                let key = self.key(item)?;
                Ok(self.dict(*id).index.contains_key(&key))
            }
            _ => {
                for other in self.iterate(container)? {
                    if self.equal(&other, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Everything that a loop over `v` would see.
    pub(crate) fn iterate(&mut self, v: &V) -> Result<Vec<V>> {
        let items: Vec<V> = match v {
            V::List(id) | V::Tuple(id) => self.items(*id).clone(),
            V::Dict(id) | V::Set(id) => self.dict(*id).entries.iter().map(|(key, _)| key.clone()).collect(),
            V::Str(text) => {
                self.charge(text.len() * (size_of::<V>() + 20))?;
                text.chars().map(|c| V::Str(c.to_string().into())).collect()
            }
            V::Range(start, stop, step) => {
                let len = range_len(*start, *stop, *step);
                self.charge(usize::try_from(len).unwrap_or(usize::MAX).saturating_mul(size_of::<V>()))?;
                (0..len).map(|i| V::Int(start.wrapping_add(i.wrapping_mul(*step)))).collect()
            }
            other => return Err(self.fail(format!("{} cannot be iterated over", self.kind(other)))),
        };
        self.step(items.len())?;
        Ok(items)
    }

    pub(crate) fn new_set(&mut self, items: Vec<V>) -> Result<V> {
        let set = self.new_dict(Dict::default())?;
        for item in items {
            self.insert(set, item, V::None)?;
        }
        Ok(V::Set(set))
    }

    /// A Python index into something of `len` items.
    pub(crate) fn position(&self, index: i64, len: usize) -> Result<usize> {
        let at = if index < 0 { index + len as i64 } else { index };
        usize::try_from(at)
            .ok()
            .filter(|at| *at < len)
            .ok_or_else(|| self.fail(format!("there is no item {index} among {len}")))
    }

    pub(crate) fn missing_key(&mut self, dict: Id, key: &V) -> Result<Error> {
        let key = self.repr(key)?;
        let known: Vec<V> = self.dict(dict).entries.iter().take(8).map(|(key, _)| key.clone()).collect();
        let known = known.iter().map(|key| self.repr(key)).collect::<Result<Vec<_>>>()?;
        Ok(self.fail(format!("there is no key {key}; there are {}", known.join(", "))))
    }

    /// `owner[index]`.
    pub(crate) fn subscript(&mut self, owner: &V, index: &V) -> Result<V> {
        match (owner, index) {
            (V::Dict(dict), key) => {
                let hashed = self.key(key)?;
                match self.dict(*dict).get(&hashed) {
                    Some(value) => Ok(value.clone()),
                    None => Err(self.missing_key(*dict, key)?),
                }
            }
            (V::List(id) | V::Tuple(id), V::Int(n)) => {
                let at = self.position(*n, self.items(*id).len())?;
                Ok(self.items(*id)[at].clone())
            }
            (V::List(_) | V::Tuple(_), V::Bool(b)) => self.subscript(owner, &V::Int(i64::from(*b))),
            (V::Str(text), V::Int(n)) => {
                self.step(text.len() >> 4)?;
                let at = self.position(*n, text.chars().count())?;
                let c: String = text.chars().skip(at).take(1).collect();
                self.str(c)
            }
            (V::Range(start, stop, step), V::Int(n)) => {
                let at = self.position(*n, range_len(*start, *stop, *step) as usize)?;
                Ok(V::Int(start.wrapping_add((at as i64).wrapping_mul(*step))))
            }
            // `List[int]` in an annotation or an alias.
            (V::Name(_), _) => Ok(owner.clone()),
            _ => Err(self.fail(format!("{} cannot be indexed with {}", self.kind(owner), self.kind(index)))),
        }
    }

    /// `owner[start:stop:step]`.
    pub(crate) fn slice(&mut self, owner: &V, bounds: (Option<i64>, Option<i64>, Option<i64>)) -> Result<V> {
        let items = match owner {
            V::List(id) | V::Tuple(id) => self.items(*id).clone(),
            V::Str(_) | V::Range(..) => self.iterate(owner)?,
            other => return Err(self.fail(format!("{} cannot be sliced", self.kind(other)))),
        };
        let (len, step) = (items.len() as i64, bounds.2.unwrap_or(1));
        if step == 0 {
            return Err(self.fail("the step of a slice is 0"));
        }
        let clamp = |bound: i64, low: i64, high: i64| {
            let at = if bound < 0 { bound.saturating_add(len) } else { bound };
            at.clamp(low, high)
        };
        let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let start = bounds.0.map_or(if step > 0 { low } else { high }, |b| clamp(b, low, high));
        let stop = bounds.1.map_or(if step > 0 { high } else { low }, |b| clamp(b, low, high));
        let part: Vec<V> =
            (0..range_len(start, stop, step)).map(|i| items[(start + i * step) as usize].clone()).collect();
        self.step(part.len())?;
        match owner {
            V::Tuple(_) => self.tuple(part),
            V::Str(_) => {
                let text: String = part.iter().map(|c| if let V::Str(c) = c { &**c } else { "" }).collect();
                self.str(text)
            }
            _ => self.list(part),
        }
    }

    /// `owner[index] = value`.
    pub(crate) fn set_item(&mut self, owner: &V, index: V, value: V) -> Result<()> {
        match (owner, &index) {
            (V::Dict(dict), _) => self.insert(*dict, index, value),
            (V::List(list), V::Int(n)) => {
                let at = self.position(*n, self.items(*list).len())?;
                self.items_mut(*list)[at] = value;
                Ok(())
            }
            _ => Err(self.fail(format!("items of {} cannot be set", self.kind(owner)))),
        }
    }

    /// `a += b` and its like: lists, dicts and sets change in place.
    pub(crate) fn augmented(&mut self, op: Operator, a: &V, b: &V) -> Result<V> {
        match (op, a) {
            (Operator::Add, V::List(list)) => {
                for item in self.iterate(b)? {
                    self.push(*list, item)?;
                }
                Ok(a.clone())
            }
            (Operator::BitOr, V::Dict(dict)) => {
                self.merge(*dict, b)?;
                Ok(a.clone())
            }
            _ => self.binary(op, a, b),
        }
    }

    /// `a op b`.
    pub(crate) fn binary(&mut self, op: Operator, a: &V, b: &V) -> Result<V> {
        if let (Some(x), Some(y)) = (number(a), number(b)) {
            return self.arithmetic(op, x, y);
        }
        match (op, a, b) {
            (Operator::Add, V::Str(x), V::Str(y)) => {
                self.charge(x.len() + y.len())?;
                self.str(format!("{x}{y}"))
            }
            (Operator::Add, V::List(x), V::List(y)) | (Operator::Add, V::Tuple(x), V::Tuple(y)) => {
                self.charge((self.items(*x).len() + self.items(*y).len()) * size_of::<V>())?;
                let items = [&self.items(*x)[..], &self.items(*y)[..]].concat();
                if matches!(a, V::List(_)) { self.list(items) } else { self.tuple(items) }
            }
            (Operator::Mult, V::Int(_) | V::Bool(_), V::Str(_) | V::List(_) | V::Tuple(_)) => self.binary(op, b, a),
            (Operator::Mult, V::Str(text), V::Int(n)) => {
                let times = usize::try_from(*n).unwrap_or(0);
                self.charge(text.len().saturating_mul(times))?;
                self.str(text.repeat(times))
            }
            (Operator::Mult, V::List(id) | V::Tuple(id), V::Int(n)) => {
                let times = usize::try_from(*n).unwrap_or(0);
                self.charge((self.items(*id).len() * size_of::<V>()).saturating_mul(times))?;
                let len = self.items(*id).len() * times;
                let items: Vec<V> = self.items(*id).iter().cycle().take(len).cloned().collect();
                if matches!(a, V::List(_)) { self.list(items) } else { self.tuple(items) }
            }
            (Operator::Mod, V::Str(text), _) => {
                let text = text.clone();
                self.percent(&text, b)
            }
            (Operator::BitOr, V::Dict(x), V::Dict(_)) => {
                let merged = self.new_dict(Dict::default())?;
                self.merge(merged, &V::Dict(*x))?;
                self.merge(merged, b)?;
                Ok(V::Dict(merged))
            }
            (Operator::BitOr | Operator::BitAnd | Operator::Sub | Operator::BitXor, V::Set(_), V::Set(_))
            | (Operator::BitOr | Operator::BitAnd | Operator::Sub, V::List(_), V::Set(_) | V::List(_)) => {
                self.set_operation(op, a, b)
            }
            // `int | None` in an annotation.
            (Operator::BitOr, V::Builtin(_) | V::Name(_) | V::None, _) => Ok(a.clone()),
            _ => Err(self.fail(format!("`{}` cannot join {} and {}", op.as_str(), self.kind(a), self.kind(b)))),
        }
    }

    /// Sets, and the keys of dictionaries, which are lists here.
    fn set_operation(&mut self, op: Operator, a: &V, b: &V) -> Result<V> {
        let (x, y) = (self.iterate(a)?, self.iterate(b)?);
        let mut kept = Vec::new();
        let (in_x, in_y) = (self.new_set(x.clone())?, self.new_set(y.clone())?);
        for item in &x {
            let both = self.contains(&in_y, item)?;
            if match op {
                Operator::BitAnd => both,
                Operator::BitOr => true,
                _ => !both,
            } {
                kept.push(item.clone());
            }
        }
        if matches!(op, Operator::BitOr | Operator::BitXor) {
            for item in y {
                if !self.contains(&in_x, &item)? {
                    kept.push(item);
                }
            }
        }
        self.new_set(kept)
    }

    fn arithmetic(&mut self, op: Operator, x: Number, y: Number) -> Result<V> {
        let by_zero = matches!(op, Operator::Div | Operator::FloorDiv | Operator::Mod) && y.float() == 0.0;
        if by_zero {
            return Err(self.fail("division by zero"));
        }
        if let (Number::Int(x), Number::Int(y)) = (x, y) {
            let shift = || u32::try_from(y).ok();
            let whole = match op {
                Operator::Add => x.checked_add(y),
                Operator::Sub => x.checked_sub(y),
                Operator::Mult => x.checked_mul(y),
                Operator::FloorDiv => {
                    x.checked_div_euclid(y).map(|q| if y < 0 && x.rem_euclid(y) != 0 { q - 1 } else { q })
                }
                Operator::Mod => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
                Operator::Pow if y < 0 => return Ok(V::Float((x as f64).powf(y as f64))),
                Operator::Pow => shift().and_then(|y| x.checked_pow(y)),
                Operator::BitAnd => Some(x & y),
                Operator::BitOr => Some(x | y),
                Operator::BitXor => Some(x ^ y),
                Operator::LShift => shift().filter(|y| *y < 63).and_then(|y| x.checked_mul(1 << y)),
                Operator::RShift => shift().map(|y| x >> y.min(63)),
                Operator::Div => return Ok(V::Float(x as f64 / y as f64)),
                Operator::MatMult => return Err(self.fail("`@` is not supported in configurations")),
            };
            return whole.map(V::Int).ok_or_else(|| self.fail("the number leaves 64 bits"));
        }
        let (x, y) = (x.float(), y.float());
        Ok(V::Float(match op {
            Operator::Add => x + y,
            Operator::Sub => x - y,
            Operator::Mult => x * y,
            Operator::Div => x / y,
            Operator::FloorDiv => (x / y).floor(),
            Operator::Mod => x - (x / y).floor() * y,
            Operator::Pow => x.powf(y),
            _ => return Err(self.fail(format!("`{}` wants whole numbers", op.as_str()))),
        }))
    }

    /// Sorts, stably. Errors of comparing end it, so the standard sort, which wants an order, cannot be used.
    pub(crate) fn sort(&mut self, items: Vec<(V, V)>) -> Result<Vec<(V, V)>> {
        if items.len() < 2 {
            return Ok(items);
        }
        self.step(items.len())?;
        let mut left = items;
        let right = left.split_off(left.len() / 2);
        let (left, right) = (self.sort(left)?, self.sort(right)?);
        let mut sorted = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (a, b) = (a.0.clone(), b.0.clone());
            let next = if self.order(&b, &a)? == Some(Ordering::Less) { right.next() } else { left.next() };
            sorted.extend(next);
        }
        sorted.extend(left.chain(right));
        Ok(sorted)
    }
}

/// Items of a range.
pub(crate) fn range_len(start: i64, stop: i64, step: i64) -> i64 {
    let span = i128::from(stop) - i128::from(start);
    let step = i128::from(step);
    if span == 0 || step == 0 || (span < 0) != (step < 0) {
        return 0;
    }
    ((span.abs() - 1) / step.abs() + 1).try_into().unwrap_or(i64::MAX)
}

/// A value of arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(crate) fn float(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(x) => x,
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

/// A number or a bool as a number.
pub(crate) fn number(v: &V) -> Option<Number> {
    match v {
        V::Bool(b) => Some(Number::Int(i64::from(*b))),
        V::Int(n) => Some(Number::Int(*n)),
        V::Float(x) => Some(Number::Float(*x)),
        _ => None,
    }
}
