//! Functions → [`Code`]: registers become rows, variables get their places, calls are replaced by the callee's body.

use std::collections::HashMap;

use super::{Address, Code, Inst, Op, Param, Slot, Special, mods::Mods, special::special_register};
use crate::emulator::{
    counters::Class,
    memory::{LOCAL_WINDOW, SHARED_WINDOW},
    ptx::{Function, Module, Operand, PtxError, Space, Statement, Ty, Var},
};

type Result<T> = std::result::Result<T, PtxError>;

/// Calls within calls: device functions are few and small, so more is a recursion.
const MAX_DEPTH: usize = 32;
/// Instructions of a kernel with all its calls.
const MAX_INSTS: usize = 1 << 21;
/// Static shared memory of a kernel: what the assembler accepts.
const MAX_STATIC_SHARED: usize = 48 << 10;
/// Local memory of a thread: what the hardware has.
const MAX_LOCAL: usize = 512 << 10;

/// Where a variable lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) space: Space,
    pub(super) offset: u64,
}

/// One function as it is called from one place.
struct Frame<'m> {
    function: &'m Function,
    slots: Vec<Slot>,
    places: Vec<Option<Place>>,
    /// Statement → instruction.
    starts: Vec<u32>,
    /// Branches to be directed: instruction, scope, label, line.
    branches: Vec<(usize, u32, String, u32)>,
    tables: Vec<(usize, u32, String, u32)>,
    /// `ret`s of a called function.
    returns: Vec<usize>,
}

pub(super) struct Lowerer<'m> {
    module: &'m Module,
    /// Variables of the module.
    globals: &'m HashMap<String, u64>,
    pub(super) code: Code,
    frames: Vec<Frame<'m>>,
    constants: HashMap<u32, u32>,
    constants64: HashMap<u64, u32>,
    constant_preds: HashMap<bool, u32>,
    specials: HashMap<Special, Slot>,
    shared: HashMap<String, u64>,
    local: usize,
    pub(super) line: u32,
}

/// Decodes the kernel `function`; `globals` holds the addresses of the module's variables.
pub(crate) fn lower(module: &Module, function: &Function, globals: &HashMap<String, u64>) -> Result<Code> {
    let mut lowerer = Lowerer {
        module,
        globals,
        code: Code {
            name: function.name.clone(),
            max_threads: function.max_threads,
            required_block: function.required_block,
            ..Code::default()
        },
        frames: Vec::new(),
        constants: HashMap::new(),
        constants64: HashMap::new(),
        constant_preds: HashMap::new(),
        specials: HashMap::new(),
        shared: HashMap::new(),
        local: 0,
        line: function.line,
    };
    lowerer.kernel(function)?;
    Ok(lowerer.code)
}

impl<'m> Lowerer<'m> {
    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(PtxError::new(self.line, message))
    }

    fn kernel(&mut self, function: &'m Function) -> Result<()> {
        let mut offset = 0_usize;
        let mut places = vec![None; function.vars.len()];
        for &index in &function.params {
            let var = &function.vars[index as usize];
            let bytes = self.sized(var)?;
            offset = offset.next_multiple_of(var.align);
            places[index as usize] = Some(Place { space: Space::Param, offset: offset as u64 });
            self.code.params.push(Param {
                name: var.name.clone(),
                offset: offset as u32,
                bytes: bytes as u32,
                ty: (!var.array).then_some(var.ty),
            });
            offset += bytes;
            if offset > 4096 {
                return self.error(format!("`{}` has more than 4096 bytes of parameters", function.name));
            }
        }
        self.code.param_bytes = offset as u32;
        self.shared_layout(function)?;
        self.inline(function, places)?;
        self.code.local_bytes = self.local.next_multiple_of(16) as u32;
        Ok(())
    }

    fn sized(&self, var: &Var) -> Result<usize> {
        match var.bytes {
            Some(bytes) => Ok(bytes),
            None => Err(PtxError::new(var.line, format!("`{}` has no size", var.name))),
        }
    }

    /// Static variables first, then those whose size the launch gives, which share one address.
    fn shared_layout(&mut self, function: &Function) -> Result<()> {
        let mut seen = vec![function.name.as_str()];
        let mut index = 0;
        let mut vars: Vec<&Var> = self.module.vars.iter().filter(|v| v.space == Space::Shared).collect();
        // The kernel and what it may call.
        while let Some(f) = seen.get(index).and_then(|name| self.module.functions.iter().find(|f| f.name == *name)) {
            vars.extend(f.vars.iter().filter(|v| v.space == Space::Shared));
            for operand in f.body.iter().filter(|s| s.opcode.starts_with("call")).flat_map(|s| &s.operands) {
                if let Operand::Word(name) = operand
                    && let Some(f) = self.module.functions.iter().find(|f| f.name == *name)
                    && !seen.contains(&f.name.as_str())
                {
                    seen.push(&f.name);
                }
            }
            index += 1;
        }
        let mut offset = 0_usize;
        for var in vars.iter().filter(|v| v.bytes.is_some()) {
            offset = offset.next_multiple_of(var.align);
            self.shared.insert(var.name.clone(), offset as u64);
            offset = offset.saturating_add(self.sized(var)?);
            if offset > MAX_STATIC_SHARED {
                let text = format!("{offset} bytes of static shared memory; at most {MAX_STATIC_SHARED} are possible");
                return Err(PtxError::new(var.line, text));
            }
        }
        let dynamic = || vars.iter().filter(|v| v.bytes.is_none());
        offset = offset.next_multiple_of(dynamic().map(|v| v.align).max().unwrap_or(1).max(16));
        for var in dynamic() {
            self.shared.insert(var.name.clone(), offset as u64);
        }
        self.code.shared_bytes = offset as u32;
        Ok(())
    }

    /// Appends the body of `function`, whose parameters have their places.
    fn inline(&mut self, function: &'m Function, mut places: Vec<Option<Place>>) -> Result<()> {
        if self.frames.len() >= MAX_DEPTH {
            return self.error(format!("`{}`: calls nested too deep; recursion is not supported", function.name));
        }
        for (var, place) in function.vars.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
            *place = Some(match var.space {
                Space::Shared => {
                    Place { space: Space::Shared, offset: self.shared.get(&var.name).copied().unwrap_or(0) }
                }
                _ => Place { space: Space::Local, offset: self.local_space(var.align, self.sized(var)?)? },
            });
        }
        let slots = function.regs.iter().map(|&ty| self.new_slot(ty)).collect();
        self.frames.push(Frame {
            function,
            slots,
            places,
            starts: Vec::with_capacity(function.body.len() + 1),
            branches: Vec::new(),
            tables: Vec::new(),
            returns: Vec::new(),
        });
        for statement in &function.body {
            self.line = statement.line;
            let start = self.code.insts.len() as u32;
            self.frame().starts.push(start);
            self.statement(statement)?;
            if self.code.insts.len() > MAX_INSTS {
                return self.error(format!("`{}` has more than {MAX_INSTS} instructions", self.code.name));
            }
        }
        let end = self.code.insts.len() as u32;
        self.frame().starts.push(end);
        if self.frames.len() == 1 {
            // Threads that run past the end return.
            self.push(Op::Exit, None, Class::Control);
        }
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        for (inst, scope, label, line) in frame.branches {
            self.code.insts[inst].op = Op::Bra(target(function, &frame.starts, scope, &label, line)?);
        }
        for (table, scope, name, line) in frame.tables {
            let labels = function.scoped(&function.targets, scope, &name);
            let labels = labels.ok_or_else(|| PtxError::new(line, format!("no .branchtargets `{name}`")))?;
            self.code.tables[table] =
                labels.iter().map(|l| target(function, &frame.starts, scope, l, line)).collect::<Result<_>>()?;
        }
        for inst in frame.returns {
            self.code.insts[inst].op = Op::Bra(end);
        }
        Ok(())
    }

    fn frame(&mut self) -> &mut Frame<'m> {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    pub(super) fn push(&mut self, op: Op, guard: Option<(u32, bool)>, class: Class) {
        self.code.insts.push(Inst { op, guard, class, line: self.line });
    }

    fn statement(&mut self, s: &'m Statement) -> Result<()> {
        let guard = match s.guard {
            Some((reg, negated)) => match self.frame().slots[reg as usize] {
                Slot::P(p) => Some((p, negated)),
                _ => return self.error("the guard is no predicate"),
            },
            None => None,
        };
        let mut mods = Mods::new(s);
        if mods.name == "call" {
            return self.call(&mut mods, s, guard);
        }
        let lowered = match mods.name {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max" | "rcp" | "sqrt"
            | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" | "testp" => self.arithmetic(&mut mods, s),
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "popc" | "clz" | "brev" | "bfind"
            | "bfe" | "bfi" | "prmt" | "lop3" | "sad" | "mul24" | "mad24" | "dp4a" | "dp2a" | "szext" | "bmsk" => {
                super::integer::bits(self, &mut mods, &s.operands)
            }
            "mov" | "cvta" | "isspacep" => super::moves::lower(self, &mut mods, &s.operands),
            "cvt" => super::convert::lower(self, &mut mods, &s.operands),
            "setp" | "set" | "selp" | "slct" => super::compare::lower(self, &mut mods, &s.operands),
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                super::memory::lower(self, &mut mods, &s.operands)
            }
            "shfl" | "vote" | "match" | "redux" | "activemask" | "mma" | "ldmatrix" => {
                super::warp::lower(self, &mut mods, &s.operands)
            }
            "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "bar" | "barrier" | "membar"
            | "fence" | "griddepcontrol" | "pmevent" => super::control::lower(self, &mut mods, s),
            _ => mods.error("not known"),
        };
        let (op, class) = lowered?;
        mods.finish()?;
        self.push(op, guard, class);
        Ok(())
    }

    fn arithmetic(&mut self, mods: &mut Mods<'_>, s: &Statement) -> Result<(Op, Class)> {
        let ty = s.opcode.rsplit('.').find_map(Ty::from_name);
        match ty {
            Some(Ty::F32 | Ty::F64) => super::float::lower(self, mods, &s.operands),
            Some(Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2) => super::half::lower(self, mods, &s.operands),
            Some(ty) if ty.is_int() => super::integer::arithmetic(self, mods, &s.operands),
            _ => mods.error("wanted a type"),
        }
    }

    /// `call (ret), name, (args);`: the callee's parameters are the caller's variables.
    fn call(&mut self, mods: &mut Mods<'_>, s: &'m Statement, guard: Option<(u32, bool)>) -> Result<()> {
        mods.has("uni");
        mods.finish()?;
        let mut returns: &[Operand] = &[];
        let mut rest = &s.operands[..];
        if let [Operand::List(list), after @ ..] = rest {
            (returns, rest) = (list, after);
        }
        let (name, args): (&str, &[Operand]) = match rest {
            [Operand::Word(name)] => (name, &[]),
            [Operand::Word(name), Operand::List(args)] => (name, args),
            _ => return self.error("only direct calls `call (results), name, (arguments)` are known"),
        };
        let Some(callee) = self.module.functions.iter().find(|f| f.name == name && !f.entry) else {
            return self.error(format!("`{name}` is called, but the module has no such function"));
        };
        if callee.params.len() != args.len() || callee.returns.len() != returns.len() {
            return self.error(format!("`{name}` is called with the wrong number of arguments"));
        }
        let mut places = vec![None; callee.vars.len()];
        let pairs = callee.params.iter().zip(args).chain(callee.returns.iter().zip(returns));
        for (&param, arg) in pairs {
            let place = match arg {
                Operand::Var(var) => self.frame().places[*var as usize],
                _ => return self.error(format!("`{name}`: an argument that is no .param variable")),
            };
            places[param as usize] = place;
        }
        let skip = guard.map(|(p, negated)| {
            self.push(Op::Nop, Some((p, !negated)), Class::Control);
            self.code.insts.len() - 1
        });
        self.inline(callee, places)?;
        self.line = s.line;
        if let Some(inst) = skip {
            self.code.insts[inst].op = Op::Bra(self.code.insts.len() as u32);
        }
        Ok(())
    }

    /// A branch, directed when the function is complete.
    pub(super) fn branch(&mut self, scope: u32, label: &str) -> Op {
        let (inst, line) = (self.code.insts.len(), self.line);
        self.frame().branches.push((inst, scope, label.to_string(), line));
        Op::Nop
    }

    pub(super) fn branch_table(&mut self, scope: u32, name: &str) -> u32 {
        let (table, line) = (self.code.tables.len(), self.line);
        self.code.tables.push(Vec::new());
        self.frame().tables.push((table, scope, name.to_string(), line));
        table as u32
    }

    /// `ret`: of a kernel the end of the thread.
    pub(super) fn ret(&mut self) -> Op {
        if self.frames.len() == 1 {
            return Op::Exit;
        }
        let inst = self.code.insts.len();
        self.frame().returns.push(inst);
        Op::Nop
    }

    fn local_space(&mut self, align: usize, bytes: usize) -> Result<u64> {
        let offset = self.local.next_multiple_of(align);
        self.local = offset.saturating_add(bytes);
        if self.local > MAX_LOCAL {
            return self
                .error(format!("{} bytes of local memory a thread; at most {MAX_LOCAL} are possible", self.local));
        }
        Ok(offset as u64)
    }

    pub(super) fn new_slot(&mut self, ty: Ty) -> Slot {
        let (count, slot): (_, fn(u32) -> Slot) = match ty {
            Ty::Pred => (&mut self.code.preds, Slot::P),
            _ if ty.bytes() == 8 => (&mut self.code.rows64, Slot::Q),
            _ => (&mut self.code.rows, Slot::R),
        };
        *count += 1;
        slot(*count - 1)
    }

    pub(super) fn constant(&mut self, value: u32) -> u32 {
        if let Some(&row) = self.constants.get(&value) {
            return row;
        }
        let row = self.code.rows;
        self.code.rows += 1;
        self.code.constants.push((row, value));
        self.constants.insert(value, row);
        row
    }

    pub(super) fn constant64(&mut self, value: u64) -> u32 {
        if let Some(&row) = self.constants64.get(&value) {
            return row;
        }
        let row = self.code.rows64;
        self.code.rows64 += 1;
        self.code.constants64.push((row, value));
        self.constants64.insert(value, row);
        row
    }

    pub(super) fn constant_pred(&mut self, value: bool) -> u32 {
        if let Some(&row) = self.constant_preds.get(&value) {
            return row;
        }
        let row = self.code.preds;
        self.code.preds += 1;
        self.code.constant_preds.push((row, value));
        self.constant_preds.insert(value, row);
        row
    }

    /// The register that `operand` is, and its type.
    pub(super) fn register(&mut self, operand: &Operand) -> Result<(Slot, Ty)> {
        match operand {
            Operand::Reg(reg) => {
                let frame = self.frame();
                Ok((frame.slots[*reg as usize], frame.function.regs[*reg as usize]))
            }
            _ => self.error(format!("{operand:?} is no register")),
        }
    }

    /// An operand of exactly `bytes`, to be read.
    pub(super) fn source(&mut self, operand: &Operand, bytes: usize) -> Result<Slot> {
        if let Operand::Reg(_) = operand {
            let (slot, ty) = self.register(operand)?;
            if ty.bytes() != bytes || bytes == 0 {
                return self.error(format!("a register of type {ty:?} for an operand of {} bits", bytes * 8));
            }
            return Ok(slot);
        }
        self.immediate(operand, bytes)
    }

    /// An operand that is no register of its own.
    pub(super) fn immediate(&mut self, operand: &Operand, bytes: usize) -> Result<Slot> {
        let value = match operand {
            Operand::Int(value) => *value,
            Operand::F32(bits) if bytes == 4 => u64::from(*bits),
            Operand::F64(bits) if bytes == 8 => *bits,
            Operand::F64(bits) if bytes == 4 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            Operand::Word(name) => match self.special(name, bytes)? {
                Some(slot) => return Ok(slot),
                None => self.symbol(operand, false)?,
            },
            Operand::Var(_) | Operand::Addr(..) => self.symbol(operand, false)?,
            _ => return self.error(format!("{operand:?} is no operand of {} bits", bytes * 8)),
        };
        Ok(match bytes {
            8 => Slot::Q(self.constant64(value)),
            4 => Slot::R(self.constant(value as u32)),
            2 => Slot::R(self.constant(value as u32 & 0xffff)),
            _ => return self.error("an operand of one byte"),
        })
    }

    /// The address of a variable, generic or within its space.
    pub(super) fn symbol(&mut self, operand: &Operand, generic: bool) -> Result<u64> {
        let place = match operand {
            Operand::Var(var) => self.frame().places[*var as usize],
            Operand::Word(name) => self.module_place(name),
            Operand::Addr(base, offset) => {
                return Ok(self.symbol(base, generic)?.wrapping_add(*offset as u64));
            }
            _ => None,
        };
        let Some(place) = place else {
            return self.error(format!("{operand:?}: no such variable or special register"));
        };
        Ok(match place.space {
            Space::Shared if generic => place.offset + SHARED_WINDOW,
            Space::Local if generic => place.offset + LOCAL_WINDOW,
            _ => place.offset,
        })
    }

    fn module_place(&self, name: &str) -> Option<Place> {
        if let Some(&offset) = self.shared.get(name) {
            return Some(Place { space: Space::Shared, offset });
        }
        self.globals.get(name).map(|&offset| Place { space: Space::Global, offset })
    }

    /// `[…]`, and the space of the variable in it, if there is one.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<(Address, Option<Space>)> {
        let Operand::Addr(base, offset) = operand else {
            return self.error(format!("{operand:?} is no address"));
        };
        let offset = *offset as u64;
        match &**base {
            Operand::Reg(_) => {
                let (slot, ty) = self.register(base)?;
                if !matches!(ty.bytes(), 4 | 8) {
                    return self.error(format!("an address in a register of type {ty:?}"));
                }
                Ok((Address { base: Some(slot), offset }, None))
            }
            Operand::Int(value) => Ok((Address { base: None, offset: value.wrapping_add(offset) }, None)),
            Operand::Var(var) => {
                let place = self.frame().places[*var as usize];
                let place = place.unwrap_or(Place { space: Space::Local, offset: 0 });
                Ok((Address { base: None, offset: place.offset.wrapping_add(offset) }, Some(place.space)))
            }
            Operand::Word(name) => match self.module_place(name) {
                Some(place) => {
                    Ok((Address { base: None, offset: place.offset.wrapping_add(offset) }, Some(place.space)))
                }
                None => self.error(format!("`{name}`: no such variable")),
            },
            _ => self.error(format!("{base:?} is no address")),
        }
    }

    pub(super) fn r(&mut self, operand: &Operand, bytes: usize) -> Result<u32> {
        match self.source(operand, bytes)? {
            Slot::R(row) => Ok(row),
            _ => self.error(format!("{operand:?} has not {} bits", bytes * 8)),
        }
    }

    pub(super) fn q(&mut self, operand: &Operand) -> Result<u32> {
        match self.source(operand, 8)? {
            Slot::Q(row) => Ok(row),
            _ => self.error(format!("{operand:?} has not 64 bits")),
        }
    }

    /// A predicate to be read, and whether it is negated.
    pub(super) fn p(&mut self, operand: &Operand) -> Result<(u32, bool)> {
        match operand {
            Operand::Not(inner) => self.p(inner).map(|(p, negated)| (p, !negated)),
            Operand::Int(value) => Ok((self.constant_pred(*value != 0), false)),
            _ => match self.register(operand)? {
                (Slot::P(p), _) => Ok((p, false)),
                (_, ty) => self.error(format!("a register of type {ty:?} for a predicate")),
            },
        }
    }

    /// A register of exactly `bytes` to be written; `_` gives one that nobody reads.
    pub(super) fn target(&mut self, operand: &Operand, bytes: usize) -> Result<Slot> {
        if *operand == Operand::Sink {
            return Ok(self.new_slot(if bytes == 8 { Ty::B64 } else { Ty::B32 }));
        }
        match self.register(operand)? {
            (slot, ty) if ty.bytes() == bytes && bytes > 0 => Ok(slot),
            (_, ty) => self.error(format!("a register of type {ty:?} for a result of {} bits", bytes * 8)),
        }
    }

    pub(super) fn dr(&mut self, operand: &Operand, bytes: usize) -> Result<u32> {
        match self.target(operand, bytes)? {
            Slot::R(row) => Ok(row),
            _ => self.error(format!("{operand:?} has not {} bits", bytes * 8)),
        }
    }

    pub(super) fn dq(&mut self, operand: &Operand) -> Result<u32> {
        match self.target(operand, 8)? {
            Slot::Q(row) => Ok(row),
            _ => self.error(format!("{operand:?} has not 64 bits")),
        }
    }

    pub(super) fn dp(&mut self, operand: &Operand) -> Result<u32> {
        if *operand == Operand::Sink {
            self.code.preds += 1;
            return Ok(self.code.preds - 1);
        }
        match self.register(operand)? {
            (Slot::P(p), _) => Ok(p),
            (_, ty) => self.error(format!("a register of type {ty:?} for a predicate")),
        }
    }

    /// Exactly `N` operands.
    pub(super) fn operands<'o, const N: usize>(&self, operands: &'o [Operand]) -> Result<&'o [Operand; N]> {
        match operands.try_into() {
            Ok(operands) => Ok(operands),
            Err(_) => self.error(format!("{} operands, wanted {N}", operands.len())),
        }
    }

    fn special(&mut self, name: &str, bytes: usize) -> Result<Option<Slot>> {
        let Some(special) = special_register(name) else { return Ok(None) };
        if let Some(&slot) = self.specials.get(&special) {
            return match (slot, bytes) {
                (Slot::R(_), 4) | (Slot::Q(_), 8) => Ok(Some(slot)),
                _ => self.error(format!("`{name}` has not {} bits", bytes * 8)),
            };
        }
        let slot = match (special, bytes) {
            (Special::GridId, 8) => self.new_slot(Ty::B64),
            (_, 4) if special != Special::GridId => self.new_slot(Ty::B32),
            _ => return self.error(format!("`{name}` has not {} bits", bytes * 8)),
        };
        self.specials.insert(special, slot);
        self.code.specials.push((special, slot));
        Ok(Some(slot))
    }
}

fn target(function: &Function, starts: &[u32], scope: u32, label: &str, line: u32) -> Result<u32> {
    match function.scoped(&function.labels, scope, label) {
        Some(&statement) => Ok(starts[statement]),
        None => Err(PtxError::new(line, format!("no label `{label}`"))),
    }
}
