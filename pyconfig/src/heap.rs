//! The values of a running file. Everything that holds other values lives in one arena and is never freed: cycles are
//! harmless, dropping never recurses, and what a file has allocated is one number with one limit.

use ruff_python_ast as ast;
use std::{collections::HashMap, rc::Rc};

/// Place in the arena.
pub(crate) type Id = usize;

/// Where something stands: a file by number, and a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub file: u32,
    pub line: u32,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum V {
    None,
    Ellipsis,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Id),
    Tuple(Id),
    Dict(Id),
    Set(Id),
    Range(i64, i64, i64),
    /// A function of the file.
    Function(Id),
    /// A method and what it belongs to.
    Method(Id),
    /// A function of ours, by name.
    Builtin(&'static str),
    /// A stand-in for a module of the standard library.
    Module(&'static str),
    /// Something imported from elsewhere.
    Name(Id),
}

/// A key of a dictionary or set: equal where Python's values are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    None,
    Int(i64),
    /// Bits of a float that is no whole number.
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    Name(Rc<str>),
    Builtin(&'static str),
}

/// A dictionary in the order of insertion; a set is one without values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dict {
    pub entries: Vec<(V, V)>,
    pub index: HashMap<Key, usize>,
    pub at: At,
}

impl Dict {
    pub(crate) fn get(&self, key: &Key) -> Option<&V> {
        self.index.get(key).map(|i| &self.entries[*i].1)
    }

    pub(crate) fn str(&self, key: &str) -> Option<&V> {
        self.get(&Key::Str(key.into()))
    }

    pub(crate) fn insert(&mut self, hashed: Key, key: V, value: V) {
        match self.index.get(&hashed) {
            Some(i) => self.entries[*i].1 = value,
            None => {
                self.index.insert(hashed, self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// Takes a key out, keeping the order of the others.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<V> {
        let at = self.index.remove(key)?;
        self.index.values_mut().filter(|i| **i > at).for_each(|i| *i -= 1);
        Some(self.entries.remove(at).1)
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
    }
}

/// A `def` or `lambda`.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: Rc<str>,
    pub parameters: Option<Box<ast::Parameters>>,
    pub body: Body,
    /// Values of the parameters that have one, by name.
    pub defaults: Vec<(String, V)>,
    pub scope: Option<Id>,
    pub globals: Id,
    pub at: At,
}

/// What a function does.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Block(Rc<Vec<ast::Stmt>>),
    Expression(Rc<ast::Expr>),
}

/// The local names of a call or comprehension.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub names: HashMap<String, V>,
    pub parent: Option<Id>,
    /// Names declared `global` or `nonlocal`.
    pub outer: Vec<String>,
    /// Assignments in a comprehension (`:=`) go to what encloses it.
    pub is_comprehension: bool,
}

/// What lives in the arena.
#[derive(Debug)]
pub(crate) enum Object {
    Items(Vec<V>),
    Dict(Dict),
    Function(Rc<Function>),
    Method(V, Rc<str>),
    Name(Rc<str>, At),
    Scope(Scope),
}
