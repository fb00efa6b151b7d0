//! The evaluator's state: the arena, the limits, and how a file is run from its text to its variables.

use crate::{
    Error, Evaluated, Host, Limits, Place, Result, Value, depth,
    heap::{At, Dict, Function, Id, Key, Object, Scope, V},
    value,
};
use ruff_text_size::TextRange;
use std::{rc::Rc, time::Instant};

/// Evaluations within evaluations: expressions, blocks, calls, imports, and levels of a value that is copied.
pub(crate) const MAX_DEPTH: usize = 4000;
/// Calls of functions within calls.
pub(crate) const MAX_CALLS: usize = 200;
/// Imports within imports.
const MAX_IMPORTS: usize = 32;
/// Most notes kept.
const MAX_NOTES: usize = 20;

/// Where names are looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env {
    /// The module's variables, a dictionary.
    pub globals: Id,
    /// Local names, if there are any.
    pub scope: Option<Id>,
    pub file: u32,
}

/// A source file: its name, and where its lines begin.
struct File {
    name: String,
    lines: Vec<u32>,
}

pub(crate) struct Interp<'h> {
    pub heap: Vec<Object>,
    pub host: &'h dyn Host,
    limits: Limits,
    files: Vec<File>,
    /// What is evaluated now, for messages.
    pub at: At,
    pub depth: usize,
    pub calls: usize,
    imports: usize,
    steps: u64,
    allocated: usize,
    started: Instant,
    notes: Vec<String>,
}

impl<'h> Interp<'h> {
    pub(crate) fn new(host: &'h dyn Host, limits: Limits) -> Self {
        Self {
            heap: Vec::new(),
            host,
            limits,
            files: Vec::new(),
            at: At::default(),
            depth: 0,
            calls: 0,
            imports: 0,
            steps: 0,
            allocated: 0,
            started: Instant::now(),
            notes: Vec::new(),
        }
    }

    /// Evaluates the main file.
    pub(crate) fn run(mut self, name: &str, source: &str) -> Result<Evaluated> {
        let globals = self.file(name, source)?;
        self.at = At { file: 0, line: 1 };
        let mut variables = Vec::new();
        for (key, value) in self.dict(globals).entries.clone() {
            if let V::Str(key) = &key
                && !key.starts_with("__")
            {
                // Modules and our own functions are no values of a configuration.
                if !matches!(value, V::Module(_) | V::Builtin(_) | V::Method(_) | V::Ellipsis) {
                    let exported = self.export(&value).map_err(|mut error| {
                        error.message = format!("the value of `{key}`: {}", error.message);
                        error
                    })?;
                    variables.push((key.to_string(), exported));
                }
            }
        }
        Ok(Evaluated { variables, notes: self.notes })
    }

    /// Evaluates a file and returns its variables.
    pub(crate) fn file(&mut self, name: &str, source: &str) -> Result<Id> {
        if self.imports >= MAX_IMPORTS {
            return Err(self.fail(format!("more than {MAX_IMPORTS} imports within each other")));
        }
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let mut lines = vec![0];
        lines.extend(source.bytes().zip(1_u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, at)| at));
        self.files.push(File { name: name.to_owned(), lines });
        let outside = std::mem::replace(&mut self.at, At { file: number, line: 1 });
        if source.len() > self.limits.source {
            return Err(self.fail(format!("{} bytes; at most {} are read", source.len(), self.limits.source)));
        }
        // A syntax tree takes some twenty times the bytes of its source.
        self.charge(source.len().saturating_mul(20))?;
        if let Err((reason, line)) = depth::check(source) {
            self.at.line = line;
            return Err(self.fail(reason));
        }
        let parsed = ruff_python_parser::parse_module(source).map_err(|error| {
            self.at = self.place_of(number, error.location);
            self.fail(format!("this is not Python: {}", error.error))
        })?;
        let suite = parsed.into_suite();
        let globals = self.new_dict(Dict::default())?;
        self.set(globals, "__file__", V::Str(name.into()))?;
        self.set(globals, "__name__", V::Str("config".into()))?;
        self.imports += 1;
        let env = Env { globals, scope: None, file: number };
        self.block(&suite, env)?;
        self.imports -= 1;
        self.at = outside;
        Ok(globals)
    }

    /// The place of a piece of source.
    pub(crate) fn place_of(&self, file: u32, range: TextRange) -> At {
        let start = u32::from(range.start());
        let lines = &self.files[file as usize].lines;
        At { file, line: lines.partition_point(|line| *line <= start).try_into().unwrap_or(u32::MAX) }
    }

    pub(crate) fn place(&self, at: At) -> Place {
        Place { file: self.files.get(at.file as usize).map(|f| f.name.clone()).unwrap_or_default(), line: at.line }
    }

    pub(crate) fn file_name(&self, file: u32) -> String {
        self.files[file as usize].name.clone()
    }

    /// An error at the present place.
    pub(crate) fn fail(&self, message: impl Into<String>) -> Error {
        Error { place: self.place(self.at), message: message.into() }
    }

    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Counts `n` steps.
    pub(crate) fn step(&mut self, n: usize) -> Result<()> {
        let before = self.steps;
        self.steps = self.steps.saturating_add(n as u64);
        if self.steps > self.limits.steps {
            return Err(
                self.fail(format!("the configuration takes more than {} steps: an endless loop?", self.limits.steps))
            );
        }
        if before >> 12 != self.steps >> 12 && self.started.elapsed() > self.limits.time {
            return Err(self.fail(format!("the configuration takes more than {:?}", self.limits.time)));
        }
        Ok(())
    }

    /// Counts `bytes` that are going to be allocated.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.allocated = self.allocated.saturating_add(bytes);
        if self.allocated > self.limits.memory {
            return Err(
                self.fail(format!("the configuration needs more than {} MiB of memory", self.limits.memory >> 20))
            );
        }
        self.step(bytes >> 8)
    }

    /// One level deeper; [`leave`](Self::leave) it again.
    pub(crate) fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fail(format!("more than {MAX_DEPTH} levels within each other")));
        }
        self.step(1)
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    fn add(&mut self, object: Object, bytes: usize) -> Result<Id> {
        self.charge(bytes + size_of::<Object>())?;
        self.heap.push(object);
        Ok(self.heap.len() - 1)
    }

    pub(crate) fn new_items(&mut self, items: Vec<V>) -> Result<Id> {
        let bytes = items.len() * size_of::<V>();
        self.add(Object::Items(items), bytes)
    }

    pub(crate) fn list(&mut self, items: Vec<V>) -> Result<V> {
        self.new_items(items).map(V::List)
    }

    pub(crate) fn tuple(&mut self, items: Vec<V>) -> Result<V> {
        self.new_items(items).map(V::Tuple)
    }

    pub(crate) fn new_dict(&mut self, mut dict: Dict) -> Result<Id> {
        dict.at = self.at;
        let bytes = dict.entries.len() * ENTRY;
        self.add(Object::Dict(dict), bytes)
    }

    pub(crate) fn str(&mut self, text: impl Into<Rc<str>>) -> Result<V> {
        let text = text.into();
        self.charge(text.len() + 16)?;
        Ok(V::Str(text))
    }

    pub(crate) fn new_function(&mut self, function: Function, source_bytes: usize) -> Result<V> {
        self.add(Object::Function(Rc::new(function)), source_bytes.saturating_mul(20)).map(V::Function)
    }

    pub(crate) fn new_method(&mut self, owner: V, name: Rc<str>) -> Result<V> {
        self.add(Object::Method(owner, name), 0).map(V::Method)
    }

    pub(crate) fn new_name(&mut self, dotted: &str) -> Result<V> {
        let at = self.at;
        self.add(Object::Name(dotted.into(), at), dotted.len()).map(V::Name)
    }

    pub(crate) fn new_scope(&mut self, parent: Option<Id>, is_comprehension: bool) -> Result<Id> {
        self.add(Object::Scope(Scope { parent, is_comprehension, ..Scope::default() }), 256)
    }

    // The kind of an object is fixed by the value that points to it.

    pub(crate) fn items(&self, id: Id) -> &Vec<V> {
        match &self.heap[id] {
            Object::Items(items) => items,
            other => unreachable!("items, not {other:?}"),
        }
    }

    pub(crate) fn items_mut(&mut self, id: Id) -> &mut Vec<V> {
        match &mut self.heap[id] {
            Object::Items(items) => items,
            other => unreachable!("items, not {other:?}"),
        }
    }

    pub(crate) fn dict(&self, id: Id) -> &Dict {
        match &self.heap[id] {
            Object::Dict(dict) => dict,
            other => unreachable!("a dict, not {other:?}"),
        }
    }

    pub(crate) fn dict_mut(&mut self, id: Id) -> &mut Dict {
        match &mut self.heap[id] {
            Object::Dict(dict) => dict,
            other => unreachable!("a dict, not {other:?}"),
        }
    }

    pub(crate) fn scope(&mut self, id: Id) -> &mut Scope {
        match &mut self.heap[id] {
            Object::Scope(scope) => scope,
            other => unreachable!("a scope, not {other:?}"),
        }
    }

    /// Appends to a list.
    pub(crate) fn push(&mut self, list: Id, item: V) -> Result<()> {
        self.charge(size_of::<V>())?;
        self.items_mut(list).push(item);
        Ok(())
    }

    /// Sets a key of a dictionary.
    pub(crate) fn insert(&mut self, dict: Id, key: V, value: V) -> Result<()> {
        let hashed = self.key(&key)?;
        self.charge(ENTRY)?;
        self.dict_mut(dict).insert(hashed, key, value);
        Ok(())
    }

    /// Sets a text key of a dictionary.
    pub(crate) fn set(&mut self, dict: Id, key: &str, value: V) -> Result<()> {
        let key: Rc<str> = key.into();
        self.charge(ENTRY + key.len())?;
        self.dict_mut(dict).insert(Key::Str(key.clone()), V::Str(key), value);
        Ok(())
    }

    /// A value as the caller of the crate sees it: a tree of its own.
    pub(crate) fn export(&mut self, v: &V) -> Result<Value> {
        self.enter()?;
        self.charge(size_of::<Value>())?;
        let value = match v {
            V::None | V::Ellipsis => Value::None,
            V::Bool(b) => Value::Bool(*b),
            V::Int(n) => Value::Int(*n),
            V::Float(x) => Value::Float(*x),
            V::Str(text) => {
                self.charge(text.len())?;
                Value::Str(text.to_string())
            }
            V::List(id) => Value::List(self.export_all(*id)?),
            V::Tuple(id) => Value::Tuple(self.export_all(*id)?),
            V::Range(..) => {
                let mut items = Vec::new();
                for item in self.iterate(v)? {
                    items.push(self.export(&item)?);
                }
                Value::List(items)
            }
            V::Set(id) => {
                let mut items = Vec::new();
                for (key, _) in self.dict(*id).entries.clone() {
                    items.push(self.export(&key)?);
                }
                Value::Set(items)
            }
            V::Dict(id) => {
                let mut entries = Vec::new();
                for (key, value) in self.dict(*id).entries.clone() {
                    entries.push((self.export(&key)?, self.export(&value)?));
                }
                Value::Dict(value::Dict { entries, place: self.place(self.dict(*id).at) })
            }
            V::Function(id) => match &self.heap[*id] {
                Object::Function(function) => Value::Function(self.place(function.at)),
                other => unreachable!("a function, not {other:?}"),
            },
            V::Name(id) => match &self.heap[*id] {
                Object::Name(dotted, at) => {
                    Value::Name(value::Name { dotted: dotted.to_string(), place: self.place(*at) })
                }
                other => unreachable!("a name, not {other:?}"),
            },
            V::Builtin(name) | V::Module(name) => {
                Value::Name(value::Name { dotted: (*name).to_owned(), place: self.place(self.at) })
            }
            V::Method(_) => Value::Function(self.place(self.at)),
        };
        self.leave();
        Ok(value)
    }

    fn export_all(&mut self, id: Id) -> Result<Vec<Value>> {
        let items = self.items(id).clone();
        items.iter().map(|item| self.export(item)).collect()
    }

    /// A value that the caller of the crate gave.
    pub(crate) fn import_value(&mut self, value: &Value) -> Result<V> {
        self.enter()?;
        let v = match value {
            Value::None => V::None,
            Value::Bool(b) => V::Bool(*b),
            Value::Int(n) => V::Int(*n),
            Value::Float(x) => V::Float(*x),
            Value::Str(text) => self.str(text.as_str())?,
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                let items = items.iter().map(|item| self.import_value(item)).collect::<Result<_>>()?;
                self.list(items)?
            }
            Value::Dict(dict) => {
                let id = self.new_dict(Dict::default())?;
                for (key, value) in &dict.entries {
                    let (key, value) = (self.import_value(key)?, self.import_value(value)?);
                    self.insert(id, key, value)?;
                }
                V::Dict(id)
            }
            Value::Name(name) => self.new_name(&name.dotted)?,
            Value::Function(_) => V::None,
        };
        self.leave();
        Ok(v)
    }

    /// A copy of everything that can be changed in `v`. Each place that `v` refers to something gets a copy of its
    /// own, as in a configuration that mmengine read.
    pub(crate) fn copy(&mut self, v: &V) -> Result<V> {
        self.enter()?;
        let copied = match v {
            V::List(id) | V::Tuple(id) => {
                let items = self.items(*id).clone();
                let items = items.iter().map(|item| self.copy(item)).collect::<Result<Vec<_>>>()?;
                let copy = self.new_items(items)?;
                if matches!(v, V::List(_)) { V::List(copy) } else { V::Tuple(copy) }
            }
            V::Dict(id) | V::Set(id) => {
                let old = self.dict(*id).clone();
                let at = old.at;
                let copy = self.new_dict(Dict::default())?;
                for (key, value) in old.entries {
                    let value = self.copy(&value)?;
                    self.insert(copy, key, value)?;
                }
                self.dict_mut(copy).at = at;
                if matches!(v, V::Dict(_)) { V::Dict(copy) } else { V::Set(copy) }
            }
            other => other.clone(),
        };
        self.leave();
        Ok(copied)
    }
}

/// What an entry of a dictionary is taken to cost.
pub(crate) const ENTRY: usize = 2 * size_of::<V>() + 64;
