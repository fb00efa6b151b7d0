//! Tokens → [`Module`]. Registers and variables are resolved in their scope while reading.

use std::collections::HashMap;

use super::{
    Function, Module, Operand, PtxError, Space, Statement, Ty, Var,
    lexer::{Tok, Token, lex},
};

/// Registers one declaration `%r<N>` may name: what is more is a mistake or an attack.
const MAX_REGS: u64 = 1 << 17;

type Result<T> = std::result::Result<T, PtxError>;

/// Reads a whole file.
pub(crate) fn parse(text: &str) -> Result<Module> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens: &tokens, pos: 0 };
    let mut module = Module::default();
    while parser.pos < tokens.len() {
        parser.top_level(&mut module)?;
    }
    if module.functions.is_empty() && module.vars.is_empty() {
        return Err(PtxError::new(1, "no kernel"));
    }
    Ok(module)
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    pos: usize,
}

/// Names of one `{ … }`.
#[derive(Default)]
struct Scope {
    id: u32,
    regs: HashMap<String, u32>,
    /// `%r<59>`: prefix → first register and count.
    ranges: HashMap<String, (u32, u32)>,
    vars: HashMap<String, u32>,
}

impl<'a> Parser<'_, 'a> {
    fn line(&self) -> u32 {
        self.tokens.get(self.pos).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(PtxError::new(self.line(), message))
    }

    fn peek(&self) -> Option<Tok<'a>> {
        self.tokens.get(self.pos).map(|t| t.tok)
    }

    fn next(&mut self) -> Result<Tok<'a>> {
        match self.peek() {
            Some(tok) => {
                self.pos += 1;
                Ok(tok)
            }
            None => self.error("the text ends too early"),
        }
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(Tok::Punct(c));
        self.pos += usize::from(found);
        found
    }

    fn want(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.error(format!("found {}, wanted `{c}`", self.found())) }
    }

    fn found(&self) -> String {
        match self.peek() {
            Some(Tok::Word(w)) => format!("`{w}`"),
            Some(Tok::Punct(c)) => format!("`{c}`"),
            Some(Tok::Int(i)) => format!("`{i}`"),
            Some(Tok::F32(_) | Tok::F64(_)) => "a float".into(),
            Some(Tok::Str(s)) => format!("\"{s}\""),
            None => "the end of the text".into(),
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Tok::Word(word)) => {
                self.pos += 1;
                Ok(word)
            }
            _ => self.error(format!("found {}, wanted a name", self.found())),
        }
    }

    fn int(&mut self) -> Result<u64> {
        match self.peek() {
            Some(Tok::Int(int)) => {
                self.pos += 1;
                Ok(int)
            }
            _ => self.error(format!("found {}, wanted an integer", self.found())),
        }
    }

    fn small(&mut self) -> Result<u32> {
        let line = self.line();
        let int = self.int()?;
        u32::try_from(int).map_err(|_| PtxError::new(line, format!("{int} is too large here")))
    }

    /// Skips to the end of the current line: debug directives have no other end.
    fn skip_line(&mut self) {
        let line = self.line();
        while self.peek().is_some() && self.line() == line {
            self.pos += 1;
        }
    }

    fn top_level(&mut self, module: &mut Module) -> Result<()> {
        match self.peek() {
            Some(Tok::Word(".version")) => {
                self.pos += 2;
                Ok(())
            }
            Some(Tok::Word(".target" | ".file" | ".loc")) => {
                self.skip_line();
                Ok(())
            }
            Some(Tok::Word(".address_size")) => {
                self.pos += 1;
                match self.int()? {
                    64 => Ok(()),
                    bits => self.error(format!("addresses of {bits} bits; only 64 are known")),
                }
            }
            Some(Tok::Word(".visible" | ".weak" | ".extern" | ".common")) => {
                self.pos += 1;
                Ok(())
            }
            Some(Tok::Word(".entry" | ".func")) => self.function(module),
            Some(Tok::Word(".global" | ".const" | ".shared")) => {
                let mut vars = self.variables()?;
                module.vars.append(&mut vars);
                Ok(())
            }
            _ => self.error(format!("found {}, wanted a directive", self.found())),
        }
    }

    fn function(&mut self, module: &mut Module) -> Result<()> {
        let mut function =
            Function { entry: self.word()? == ".entry", line: self.line(), scopes: vec![0], ..Function::default() };
        let mut scope = Scope::default();
        if !function.entry && self.peek() == Some(Tok::Punct('(')) {
            function.returns = self.parameters(&mut function.vars, &mut scope)?;
        }
        function.name = self.word()?.to_string();
        if self.peek() == Some(Tok::Punct('(')) {
            function.params = self.parameters(&mut function.vars, &mut scope)?;
        }
        loop {
            match self.peek() {
                Some(Tok::Word(".maxntid" | ".reqntid")) => {
                    let required = self.word()? == ".reqntid";
                    let mut block = [1; 3];
                    for (i, size) in block.iter_mut().enumerate() {
                        if i == 0 || self.eat(',') {
                            *size = self.small()?;
                        }
                    }
                    if required {
                        function.required_block = Some(block);
                    } else {
                        let threads = block.iter().fold(1_u32, |n, &size| n.saturating_mul(size));
                        function.max_threads = Some(threads);
                    }
                }
                Some(Tok::Word(".minnctapersm" | ".maxnreg" | ".maxnctapersm")) => {
                    self.pos += 1;
                    self.int()?;
                }
                Some(Tok::Word(".noreturn")) => self.pos += 1,
                Some(Tok::Word(".pragma")) => self.pragma()?,
                _ => break,
            }
        }
        if self.eat(';') {
            // A declaration; the body follows, or a call to it will say that it is missing.
            return Ok(());
        }
        self.want('{')?;
        let mut scopes = vec![scope];
        self.body(&mut function, &mut scopes)?;
        module.functions.push(function);
        Ok(())
    }

    fn pragma(&mut self) -> Result<()> {
        self.pos += 2;
        self.want(';')
    }

    fn parameters(&mut self, vars: &mut Vec<Var>, scope: &mut Scope) -> Result<Vec<u32>> {
        self.want('(')?;
        let mut params = Vec::new();
        while !self.eat(')') {
            if !params.is_empty() {
                self.want(',')?;
            }
            let var = self.variable(Space::Param)?;
            scope.vars.insert(var.name.clone(), vars.len() as u32);
            params.push(vars.len() as u32);
            vars.push(var);
        }
        Ok(params)
    }

    /// `.space … a, b;`
    fn variables(&mut self) -> Result<Vec<Var>> {
        let space = match self.peek() {
            Some(Tok::Word(".global")) => Space::Global,
            Some(Tok::Word(".const")) => Space::Const,
            Some(Tok::Word(".shared")) => Space::Shared,
            Some(Tok::Word(".local")) => Space::Local,
            Some(Tok::Word(".param")) => Space::Param,
            _ => return self.error(format!("found {}, wanted a state space", self.found())),
        };
        let mut vars = vec![self.variable(space)?];
        while self.eat(',') {
            let (ty, align) = (vars[0].ty, vars[0].align);
            vars.push(self.named_variable(space, ty, Some(align))?);
        }
        self.want(';')?;
        Ok(vars)
    }

    /// A declaration from its space on.
    fn variable(&mut self, space: Space) -> Result<Var> {
        let (mut align, mut ty) = (None, None);
        while let Some(Tok::Word(word)) = self.peek().filter(|t| matches!(t, Tok::Word(w) if w.starts_with('.'))) {
            self.pos += 1;
            match word {
                ".align" => align = Some(self.int()? as usize),
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".param" => {}
                _ => match Ty::from_name(&word[1..]) {
                    Some(found) => ty = Some(found),
                    None => return self.error(format!("`{word}` is not known in a declaration")),
                },
            }
        }
        match ty {
            // The alignment of a pointer parameter is that of what it points at.
            Some(ty) => self.named_variable(space, ty, align.filter(|_| space != Space::Param || ty == Ty::B8)),
            None => self.error("a declaration without a type"),
        }
    }

    fn named_variable(&mut self, space: Space, ty: Ty, align: Option<usize>) -> Result<Var> {
        let line = self.line();
        let name = self.word()?.to_string();
        let align = align.unwrap_or(ty.bytes()).max(1);
        if !align.is_power_of_two() || align > 1 << 12 {
            return self.error(format!("`{name}`: an alignment of {align}"));
        }
        let (mut count, mut unsized_, mut array) = (1_usize, false, false);
        while self.eat('[') {
            array = true;
            if self.eat(']') {
                unsized_ = true;
                continue;
            }
            count = count.saturating_mul(self.int()? as usize);
            self.want(']')?;
        }
        let bytes = count.saturating_mul(ty.bytes());
        if bytes > 1 << 30 {
            return self.error(format!("`{name}` has {bytes} bytes"));
        }
        let mut init = Vec::new();
        if self.eat('=') {
            self.initialiser(ty, &mut init)?;
            if init.len() > bytes && !unsized_ {
                return self.error(format!("`{name}`: {} bytes of values for {bytes}", init.len()));
            }
        }
        let bytes = if unsized_ && init.is_empty() { None } else { Some(bytes.max(init.len())) };
        Ok(Var { name, space, align, ty, bytes, array, init, line })
    }

    fn initialiser(&mut self, ty: Ty, init: &mut Vec<u8>) -> Result<()> {
        if self.eat('{') {
            while !self.eat('}') {
                self.initialiser(ty, init)?;
                self.eat(',');
            }
            return Ok(());
        }
        let negative = self.eat('-');
        let value = match self.next()? {
            Tok::Int(value) if negative => value.wrapping_neg(),
            Tok::Int(value) => value,
            Tok::F32(bits) => u64::from(bits),
            Tok::F64(bits) => bits,
            _ => return self.error("an initial value that is no number"),
        };
        init.extend_from_slice(&value.to_le_bytes()[..ty.bytes()]);
        Ok(())
    }

    fn body(&mut self, function: &mut Function, scopes: &mut Vec<Scope>) -> Result<()> {
        loop {
            match self.peek() {
                None => return self.error(format!("`{}` has no end", function.name)),
                Some(Tok::Punct('{')) => {
                    self.pos += 1;
                    if scopes.len() > 64 {
                        return self.error("scopes nested too deep");
                    }
                    let id = function.scopes.len() as u32;
                    function.scopes.push(scopes.last().map_or(0, |s| s.id));
                    scopes.push(Scope { id, ..Scope::default() });
                }
                Some(Tok::Punct('}')) => {
                    self.pos += 1;
                    scopes.pop();
                    if scopes.is_empty() {
                        return Ok(());
                    }
                }
                Some(Tok::Punct(';')) => self.pos += 1,
                Some(Tok::Punct('@')) => self.statement(function, scopes)?,
                Some(Tok::Word(".loc")) => self.skip_line(),
                Some(Tok::Word(".pragma")) => self.pragma()?,
                Some(Tok::Word(".reg")) => {
                    self.pos += 1;
                    self.registers(function, scopes)?;
                }
                Some(Tok::Word(".local" | ".shared" | ".param" | ".const" | ".global")) => {
                    for var in self.variables()? {
                        if matches!(var.space, Space::Const | Space::Global) {
                            return self.error(format!("`{}`: a variable of the module within a function", var.name));
                        }
                        self.scope(scopes).vars.insert(var.name.clone(), function.vars.len() as u32);
                        function.vars.push(var);
                    }
                }
                Some(Tok::Word(word)) if self.tokens.get(self.pos + 1).map(|t| t.tok) == Some(Tok::Punct(':')) => {
                    self.pos += 2;
                    self.label(function, scopes, word)?;
                }
                Some(Tok::Word(word)) if word.starts_with('.') => {
                    return self.error(format!("directive `{word}` is not known"));
                }
                Some(Tok::Word(_)) => self.statement(function, scopes)?,
                Some(_) => return self.error(format!("found {}, wanted an instruction", self.found())),
            }
        }
    }

    fn scope<'s>(&self, scopes: &'s mut [Scope]) -> &'s mut Scope {
        let last = scopes.len() - 1;
        &mut scopes[last]
    }

    fn label(&mut self, function: &mut Function, scopes: &mut [Scope], name: &str) -> Result<()> {
        let key = (self.scope(scopes).id, name.to_string());
        if self.peek() == Some(Tok::Word(".branchtargets")) {
            self.pos += 1;
            let mut labels = vec![self.word()?.to_string()];
            while self.eat(',') {
                labels.push(self.word()?.to_string());
            }
            self.want(';')?;
            function.targets.insert(key, labels);
        } else if function.labels.insert(key, function.body.len()).is_some() {
            return self.error(format!("label `{name}` stands twice"));
        }
        Ok(())
    }

    fn registers(&mut self, function: &mut Function, scopes: &mut [Scope]) -> Result<()> {
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Ty::from_name) else {
            return self.error(format!("`{word}` is no register type that is known"));
        };
        loop {
            let name = self.word()?.to_string();
            let first = function.regs.len() as u32;
            let mut count = 1;
            if self.eat('<') {
                count = self.int()?;
                self.want('>')?;
                if count > MAX_REGS || function.regs.len() as u64 + count > MAX_REGS {
                    return self.error(format!("{count} registers; at most {MAX_REGS} of a function are known"));
                }
                self.scope(scopes).ranges.insert(name, (first, count as u32));
            } else {
                self.scope(scopes).regs.insert(name, first);
            }
            function.regs.resize(function.regs.len() + count as usize, ty);
            if !self.eat(',') {
                break;
            }
        }
        self.want(';')
    }

    fn statement(&mut self, function: &mut Function, scopes: &mut [Scope]) -> Result<()> {
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            let name = self.word()?;
            match lookup(scopes, name) {
                Some(Operand::Reg(reg)) => guard = Some((reg, negated)),
                _ => return self.error(format!("`{name}` is no register")),
            }
        }
        let line = self.line();
        let opcode = self.word()?.to_string();
        let mut operands = Vec::new();
        if !self.eat(';') {
            loop {
                operands.push(self.operand(scopes, 0)?);
                if self.eat(';') {
                    break;
                }
                self.want(',')?;
            }
        }
        function.body.push(Statement { guard, opcode, operands, scope: self.scope(scopes).id, line });
        Ok(())
    }

    fn operands_until(&mut self, scopes: &[Scope], end: char, depth: usize) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.eat(end) {
            if !operands.is_empty() {
                self.want(',')?;
            }
            operands.push(self.operand(scopes, depth + 1)?);
        }
        Ok(operands)
    }

    fn operand(&mut self, scopes: &[Scope], depth: usize) -> Result<Operand> {
        if depth > 4 {
            return self.error("operands nested too deep");
        }
        let operand = match self.next()? {
            Tok::Punct('{') => return Ok(Operand::Vector(self.operands_until(scopes, '}', depth)?)),
            Tok::Punct('(') => return Ok(Operand::List(self.operands_until(scopes, ')', depth)?)),
            Tok::Punct('!') => return Ok(Operand::Not(Box::new(self.operand(scopes, depth + 1)?))),
            Tok::Punct('[') => {
                let inner = self.operand(scopes, depth + 1)?;
                self.want(']')?;
                return Ok(match inner {
                    Operand::Addr(..) => inner,
                    base => Operand::Addr(Box::new(base), 0),
                });
            }
            Tok::Punct('-') => match self.next()? {
                Tok::Int(int) => Operand::Int(int.wrapping_neg()),
                Tok::F32(bits) => Operand::F32(bits ^ 1 << 31),
                Tok::F64(bits) => Operand::F64(bits ^ 1 << 63),
                _ => return self.error("a sign without a number"),
            },
            Tok::Int(int) => Operand::Int(int),
            Tok::F32(bits) => Operand::F32(bits),
            Tok::F64(bits) => Operand::F64(bits),
            Tok::Word("_") => Operand::Sink,
            Tok::Word(word) => lookup(scopes, word).unwrap_or_else(|| Operand::Word(word.to_string())),
            Tok::Str(_) | Tok::Punct(_) => {
                self.pos -= 1;
                return self.error(format!("found {}, wanted an operand", self.found()));
            }
        };
        if self.eat('|') {
            let second = self.operand(scopes, depth + 1)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        let negative = self.peek() == Some(Tok::Punct('-'));
        if self.eat('+') || self.eat('-') {
            let negative = self.eat('-') ^ negative;
            let offset = self.int()? as i64;
            let offset = if negative { offset.wrapping_neg() } else { offset };
            return Ok(Operand::Addr(Box::new(operand), offset));
        }
        Ok(operand)
    }
}

/// The register or variable that `name` is in the innermost scope that has it.
fn lookup(scopes: &[Scope], name: &str) -> Option<Operand> {
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, number) = name.split_at(digits);
    let number: Option<u32> = if number.len() > 1 && number.starts_with('0') { None } else { number.parse().ok() };
    for scope in scopes.iter().rev() {
        if let Some(&reg) = scope.regs.get(name) {
            return Some(Operand::Reg(reg));
        }
        if let (Some(&(first, count)), Some(number)) = (scope.ranges.get(prefix), number)
            && number < count
        {
            return Some(Operand::Reg(first + number));
        }
        if let Some(&var) = scope.vars.get(name) {
            return Some(Operand::Var(var));
        }
    }
    None
}
