//! Attributes and methods: fixed tables, so that nothing else can be reached.

use crate::{
    Result,
    args::Args,
    heap::{Dict, Id, Key, V},
    interp::Interp,
};

const DICT: &[&str] =
    &["clear", "copy", "deepcopy", "fromkeys", "get", "items", "keys", "pop", "setdefault", "update", "values"];
const LIST: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const TUPLE: &[&str] = &["count", "index"];
const SET: &[&str] = &[
    "add",
    "copy",
    "difference",
    "discard",
    "intersection",
    "issubset",
    "issuperset",
    "remove",
    "symmetric_difference",
    "union",
    "update",
];

impl Interp<'_> {
    /// `owner.name`.
    pub(crate) fn attribute(&mut self, owner: &V, name: &str) -> Result<V> {
        if name.starts_with("__") {
            return Err(self.fail(format!("`{name}`: names with two underscores do not exist in configurations")));
        }
        let methods: &[&str] = match owner {
            V::Dict(id) => {
                if !DICT.contains(&name)
                    && let Some(value) = self.dict(*id).str(name)
                {
                    return Ok(value.clone());
                }
                DICT
            }
            V::List(_) => LIST,
            V::Tuple(_) => TUPLE,
            V::Set(_) => SET,
            V::Str(_) => crate::text::METHODS,
            V::Builtin("dict") => &["fromkeys"],
            V::Name(id) => {
                let dotted = format!("{}.{name}", self.dotted(*id));
                return self.new_name(&dotted);
            }
            V::Module(module) => return self.module_attribute(module, name),
            _ => &[],
        };
        if methods.contains(&name) {
            return self.new_method(owner.clone(), name.into());
        }
        Err(self.fail(format!("{} has no `{name}` in configurations", self.kind(owner))))
    }

    /// `owner.name(…)`.
    pub(crate) fn method(&mut self, owner: &V, name: &str, mut args: Args) -> Result<V> {
        match owner {
            V::Str(text) => {
                let text = text.clone();
                self.text_method(&text, name, args)
            }
            V::List(id) if name == "sort" => {
                args.positional = vec![owner.clone()];
                let V::List(sorted) = self.sorted(args)? else { return Ok(V::None) };
                *self.items_mut(*id) = self.items(sorted).clone();
                Ok(V::None)
            }
            V::List(id) | V::Tuple(id) => self.list_method(*id, name, &args.positional),
            V::Dict(id) => self.dict_method(*id, name, args),
            V::Builtin(_) => self.dict_method(0, name, args),
            V::Set(id) => self.set_method(*id, name, &args.positional),
            other => Err(self.fail(format!("{} has no `{name}`", self.kind(other)))),
        }
    }

    fn wrong_arguments(&self, name: &str, args: &[V]) -> crate::Error {
        let kinds: Vec<&str> = args.iter().map(|arg| self.kind(arg)).collect();
        self.fail(format!("{name}() does not take ({})", kinds.join(", ")))
    }

    fn list_method(&mut self, id: Id, name: &str, args: &[V]) -> Result<V> {
        match (name, args) {
            ("append", [item]) => self.push(id, item.clone())?,
            ("extend", [other]) => {
                for item in self.iterate(other)? {
                    self.push(id, item)?;
                }
            }
            ("insert", [V::Int(at), item]) => {
                let len = self.items(id).len();
                self.charge(size_of::<V>())?;
                self.step(len >> 4)?;
                let at = if *at < 0 { (*at + len as i64).max(0) } else { *at };
                self.items_mut(id).insert(usize::try_from(at).unwrap_or(len).min(len), item.clone());
            }
            ("pop", rest) if rest.len() < 2 => {
                let at = match rest {
                    [V::Int(at)] => *at,
                    [] => -1,
                    _ => return Err(self.wrong_arguments(name, args)),
                };
                let at = self.position(at, self.items(id).len())?;
                self.step(self.items(id).len() >> 4)?;
                return Ok(self.items_mut(id).remove(at));
            }
            ("remove" | "index", [item]) => {
                for (at, other) in self.items(id).clone().into_iter().enumerate() {
                    if self.equal(&other, item)? {
                        if name == "index" {
                            return Ok(V::Int(at as i64));
                        }
                        self.items_mut(id).remove(at);
                        return Ok(V::None);
                    }
                }
                let item = self.repr(item)?;
                return Err(self.fail(format!("{item} is not in the list")));
            }
            ("count", [item]) => {
                let mut count = 0;
                for other in self.items(id).clone() {
                    count += i64::from(self.equal(&other, item)?);
                }
                return Ok(V::Int(count));
            }
            ("copy", []) => {
                let items = self.items(id).clone();
                return self.list(items);
            }
            ("clear", []) => self.items_mut(id).clear(),
            ("reverse", []) => self.items_mut(id).reverse(),
            _ => return Err(self.wrong_arguments(name, args)),
        }
        Ok(V::None)
    }

    fn dict_method(&mut self, id: Id, name: &str, args: Args) -> Result<V> {
        if name == "update" {
            for other in &args.positional {
                self.merge(id, other)?;
            }
            for (key, value) in args.named {
                self.set(id, &key, value)?;
            }
            return Ok(V::None);
        }
        let args = args.positional;
        match (name, &args[..]) {
            ("keys", []) => {
                let keys = self.dict(id).entries.iter().map(|(key, _)| key.clone()).collect();
                self.list(keys)
            }
            ("values", []) => {
                let values = self.dict(id).entries.iter().map(|(_, value)| value.clone()).collect();
                self.list(values)
            }
            ("items", []) => {
                let entries = self.dict(id).entries.clone();
                let pairs = entries.into_iter().map(|(key, value)| self.tuple(vec![key, value]));
                let pairs = pairs.collect::<Result<_>>()?;
                self.list(pairs)
            }
            ("get", [key, rest @ ..]) if rest.len() < 2 => {
                let key = self.key(key)?;
                Ok(self.dict(id).get(&key).or(rest.first()).cloned().unwrap_or(V::None))
            }
            ("setdefault", [key, rest @ ..]) if rest.len() < 2 => {
                let hashed = self.key(key)?;
                if let Some(value) = self.dict(id).get(&hashed) {
                    return Ok(value.clone());
                }
                let value = rest.first().cloned().unwrap_or(V::None);
                self.insert(id, key.clone(), value.clone())?;
                Ok(value)
            }
            ("pop", [key, rest @ ..]) if rest.len() < 2 => {
                let hashed = self.key(key)?;
                self.step(self.dict(id).entries.len())?;
                match self.dict_mut(id).remove(&hashed).or_else(|| rest.first().cloned()) {
                    Some(value) => Ok(value),
                    None => Err(self.missing_key(id, key)?),
                }
            }
            ("copy", []) => {
                let copy = self.dict(id).clone();
                self.new_dict(copy).map(V::Dict)
            }
            // A method of mmengine's dictionaries.
            ("deepcopy", []) => self.copy(&V::Dict(id)),
            ("clear", []) => {
                self.dict_mut(id).clear();
                Ok(V::None)
            }
            ("fromkeys", [keys, rest @ ..]) if rest.len() < 2 => {
                let dict = self.new_dict(Dict::default())?;
                for key in self.iterate(keys)? {
                    self.insert(dict, key, rest.first().cloned().unwrap_or(V::None))?;
                }
                Ok(V::Dict(dict))
            }
            (_, args) => Err(self.wrong_arguments(name, args)),
        }
    }

    fn set_method(&mut self, id: Id, name: &str, args: &[V]) -> Result<V> {
        use ruff_python_ast::Operator::{BitAnd, BitOr, BitXor, Sub};
        match (name, args) {
            ("add", [item]) => self.insert(id, item.clone(), V::None)?,
            ("update", others) => {
                for other in others {
                    for item in self.iterate(other)? {
                        self.insert(id, item, V::None)?;
                    }
                }
            }
            ("discard" | "remove", [item]) => {
                let key: Key = self.key(item)?;
                self.step(self.dict(id).entries.len())?;
                if self.dict_mut(id).remove(&key).is_none() && name == "remove" {
                    return Err(self.missing_key(id, item)?);
                }
            }
            ("copy", []) => {
                let copy = self.dict(id).clone();
                return self.new_dict(copy).map(V::Set);
            }
            ("union" | "intersection" | "difference" | "symmetric_difference", [other]) => {
                let op = match name {
                    "union" => BitOr,
                    "intersection" => BitAnd,
                    "difference" => Sub,
                    _ => BitXor,
                };
                let items = self.iterate(other)?;
                let other = self.new_set(items)?;
                return self.binary(op, &V::Set(id), &other);
            }
            ("issubset" | "issuperset", [other]) => {
                let (inner, outer) = if name == "issubset" { (&V::Set(id), other) } else { (other, &V::Set(id)) };
                for item in self.iterate(inner)? {
                    if !self.contains(outer, &item)? {
                        return Ok(V::Bool(false));
                    }
                }
                return Ok(V::Bool(true));
            }
            _ => return Err(self.wrong_arguments(name, args)),
        }
        Ok(V::None)
    }
}
