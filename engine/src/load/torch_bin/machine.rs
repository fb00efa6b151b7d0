//! The pickle machine (protocols 0 to 5 as far as `torch.save` uses them; `Lib/pickletools.py` defines the opcodes).
//!
//! It builds a tree of plain values. Globals are kept as names, calls as (name, arguments): nothing is looked up and nothing
//! is run; an empty `collections.OrderedDict` alone is made, as a dictionary. Which other names mean something is decided by
//! `state_dict`.

use std::collections::HashMap;

/// Pickles describe tensors and are small beside them; a longer one is not what it claims to be.
const MAX_BYTES: usize = 16 << 20;
/// Values of one pickle: hundreds of thousands of tensors' worth.
const MAX_VALUES: usize = 4 << 20;
/// Bytes of a global's name. Its parts may be recalled again and again, so without a limit few bytes could ask for many.
const MAX_NAME: usize = 1024;

/// An index into [`Pickle::values`].
pub(super) type Id = usize;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: little-endian two's complement.
    Long(Vec<u8>),
    Float,
    String(String),
    Bytes,
    /// A tuple or a list.
    Sequence(Vec<Id>),
    /// Keys and values in order.
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// A global and its arguments.
    Call(Id, Id),
    /// The `persistent_id` of something that lies outside the pickle.
    Persistent(Id),
}

/// What a pickle holds. Values refer to one another by index, so that no depth of nesting overflows a stack.
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub fn root(&self) -> &Value {
        &self.values[self.root]
    }

    pub fn int(&self) -> Option<i64> {
        if let Value::Int(n) = self.root() { Some(*n) } else { None }
    }

    pub fn long(&self) -> Option<&[u8]> {
        if let Value::Long(bytes) = self.root() { Some(bytes) } else { None }
    }

    /// The value of a key of the dictionary at the root.
    pub fn entry(&self, key: &str) -> Option<Id> {
        let Value::Dict(entries) = self.root() else { return None };
        entries.iter().find(|(k, _)| matches!(self.get(*k), Value::String(s) if s == key)).map(|(_, v)| *v)
    }

    pub fn bool_at(&self, id: Id) -> Option<bool> {
        if let Value::Bool(b) = self.get(id) { Some(*b) } else { None }
    }

    /// The strings of the list at the root.
    pub fn strings(&self) -> Result<Vec<&str>, String> {
        let Value::Sequence(items) = self.root() else { return Err("the storage keys are no list".into()) };
        let string = |id: &Id| match self.get(*id) {
            Value::String(s) => Ok(s.as_str()),
            other => Err(format!("a storage key is {other:?}")),
        };
        items.iter().map(string).collect()
    }
}

/// Runs the pickle at the start of `bytes`; the second result is its length.
pub(super) fn run(bytes: &[u8]) -> Result<(Pickle, usize), String> {
    let mut machine = Machine {
        bytes: &bytes[..bytes.len().min(MAX_BYTES)],
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = loop {
        let at = machine.at;
        if machine.values.len() > MAX_VALUES {
            return Err(format!("the pickle has more than {MAX_VALUES} values"));
        }
        let step = machine.step().map_err(|reason| format!("the pickle is damaged at byte {at}: {reason}"))?;
        if let Some(root) = step {
            break root;
        }
    };
    let len = machine.at;
    Ok((Pickle { values: machine.values, root }, len))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(len).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("it is cut off")?;
        self.at += len;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    fn len4(&mut self) -> Result<usize, String> {
        Ok(u32::from_le_bytes(self.number()?) as usize)
    }

    fn len8(&mut self) -> Result<usize, String> {
        usize::try_from(u64::from_le_bytes(self.number()?)).map_err(|_| "a length beyond any file".into())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|b| *b == b'\n').ok_or("it is cut off")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        // What lies below a mark belongs to whoever set it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            Err("the stack is empty".into())
        } else {
            Ok(self.stack.pop().expect("not empty"))
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn string(&mut self, len: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text that is not UTF-8")?;
        self.push(Value::String(text.to_owned()));
        Ok(())
    }

    fn long(&mut self, len: usize) -> Result<(), String> {
        let bytes = self.take(len)?;
        self.push(if len <= 8 {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = if negative { [0xff; 8] } else { [0; 8] };
            wide[..len].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Long(bytes.to_owned())
        });
        Ok(())
    }

    fn sequence(&mut self, len: usize) -> Result<(), String> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Sequence(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(items),
            _ => return Err("something is appended to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
            }
            _ => return Err("an item is set in what is no dictionary".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, key: usize) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("an unknown memo")?;
        self.stack.push(id);
        Ok(())
    }

    /// One opcode; the root at the end.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.take(1)?[0] {
            0x80 => {
                let [version] = self.number()?;
                if version > 5 {
                    return Err(format!("protocol {version}"));
                }
            }
            0x95 => {
                self.len8()?;
            }
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.number()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let [value] = self.number()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.number()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let [len] = self.number()?;
                self.long(len.into())?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => {
                let len = self.len4()?;
                self.string(len)?;
            }
            0x8c => {
                let [len] = self.number()?;
                self.string(len.into())?;
            }
            0x8d => {
                let len = self.len8()?;
                self.string(len)?;
            }
            b'C' | b'U' => {
                let [len] = self.number()?;
                self.take(len.into())?;
                self.push(Value::Bytes);
            }
            b'B' | b'T' => {
                let len = self.len4()?;
                self.take(len)?;
                self.push(Value::Bytes);
            }
            b']' | b')' => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85 => self.sequence(1)?,
            0x86 => self.sequence(2)?,
            0x87 => self.sequence(3)?,
            b't' | b'l' => {
                let items = self.pop_mark()?;
                self.push(Value::Sequence(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::String(module), Value::String(name)) if module.len() + name.len() <= MAX_NAME => {
                        let global = format!("{module}.{name}");
                        self.push(Value::Global(global));
                    }
                    _ => return Err("a global whose name is no text, or a long one".into()),
                }
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let ordered =
                    matches!(&self.values[callable], Value::Global(name) if name == "collections.OrderedDict");
                let empty = matches!(&self.values[arguments], Value::Sequence(items) if items.is_empty());
                self.push(if ordered && empty { Value::Dict(Vec::new()) } else { Value::Call(callable, arguments) });
            }
            // The state of an object: of an ordered dictionary only attributes that name its origin.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'q' => {
                let [key] = self.number()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = self.len4()?;
                self.memoize(key)?;
            }
            0x94 => self.memoize(self.memo.len())?,
            b'h' => {
                let [key] = self.number()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = self.len4()?;
                self.recall(key)?;
            }
            other => return Err(format!("opcode 0x{other:02x} is not one that torch.save writes")),
        }
        Ok(None)
    }
}
