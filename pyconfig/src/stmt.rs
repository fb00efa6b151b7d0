//! Statements.

use crate::{
    Result,
    heap::{Body, Key, Object, V},
    interp::{Env, Interp},
};
use ruff_python_ast::{self as ast, Expr, Stmt};
use ruff_text_size::Ranged;
use std::rc::Rc;

/// How a block ended.
pub(crate) enum Flow {
    Next,
    Break,
    Continue,
    Return(V),
}

impl Interp<'_> {
    pub(crate) fn block(&mut self, block: &[Stmt], env: Env) -> Result<Flow> {
        for statement in block {
            self.at = self.place_of(env.file, statement.range());
            self.enter()?;
            let flow = self.statement(statement, env)?;
            self.leave();
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Stmt, env: Env) -> Result<Flow> {
        let here = self.at;
        let unsupported = |what: &str| format!("{what} are not supported in configurations");
        match statement {
            Stmt::Expr(s) => {
                self.eval(&s.value, env)?;
            }
            Stmt::Assign(s) => {
                let value = self.eval(&s.value, env)?;
                for target in &s.targets {
                    self.assign(target, value.clone(), env)?;
                }
            }
            Stmt::AnnAssign(s) => {
                if let Some(value) = &s.value {
                    let value = self.eval(value, env)?;
                    self.assign(&s.target, value, env)?;
                }
            }
            Stmt::AugAssign(s) => {
                let old = self.eval(&s.target, env)?;
                let change = self.eval(&s.value, env)?;
                self.at = here;
                let new = self.augmented(s.op, &old, &change)?;
                self.assign(&s.target, new, env)?;
            }
            Stmt::For(s) => {
                if s.is_async {
                    return Err(self.fail(unsupported("`async` loops")));
                }
                let iterable = self.eval(&s.iter, env)?;
                self.at = here;
                for item in self.iterate(&iterable)? {
                    self.step(1)?;
                    self.assign(&s.target, item, env)?;
                    match self.block(&s.body, env)? {
                        Flow::Next | Flow::Continue => {}
                        Flow::Break => return Ok(Flow::Next),
                        returned @ Flow::Return(_) => return Ok(returned),
                    }
                }
                return self.block(&s.orelse, env);
            }
            Stmt::While(s) => {
                loop {
                    let test = self.eval(&s.test, env)?;
                    if !self.truth(&test) {
                        break;
                    }
                    match self.block(&s.body, env)? {
                        Flow::Next | Flow::Continue => {}
                        Flow::Break => return Ok(Flow::Next),
                        returned @ Flow::Return(_) => return Ok(returned),
                    }
                }
                return self.block(&s.orelse, env);
            }
            Stmt::If(s) => {
                let test = self.eval(&s.test, env)?;
                if self.truth(&test) {
                    return self.block(&s.body, env);
                }
                for clause in &s.elif_else_clauses {
                    let holds = match &clause.test {
                        Some(test) => {
                            let test = self.eval(test, env)?;
                            self.truth(&test)
                        }
                        None => true,
                    };
                    if holds {
                        return self.block(&clause.body, env);
                    }
                }
            }
            Stmt::FunctionDef(s) => {
                if s.is_async || !s.decorator_list.is_empty() {
                    return Err(self.fail(unsupported("`async` functions and decorators")));
                }
                let body = Body::Block(Rc::new(s.body.clone()));
                let function = self.function(&s.name, Some(&s.parameters), body, usize::from(s.range.len()), env)?;
                self.bind(&s.name, function, env)?;
            }
            Stmt::Return(s) => {
                let value = match &s.value {
                    Some(value) => self.eval(value, env)?,
                    None => V::None,
                };
                return Ok(Flow::Return(value));
            }
            Stmt::Delete(s) => {
                for target in &s.targets {
                    self.delete(target, env)?;
                }
            }
            Stmt::With(s) => self.with(s, env)?,
            Stmt::Import(s) => {
                for alias in &s.names {
                    self.import(alias, env)?;
                }
            }
            Stmt::ImportFrom(s) => self.import_from(s, false, env)?,
            Stmt::Global(s) => self.declare_outer(&s.names, env),
            Stmt::Nonlocal(s) => self.declare_outer(&s.names, env),
            Stmt::Assert(s) => {
                let test = self.eval(&s.test, env)?;
                if !self.truth(&test) {
                    let message = match &s.msg {
                        Some(message) => {
                            let message = self.eval(message, env)?;
                            format!(": {}", self.display(&message)?)
                        }
                        None => String::new(),
                    };
                    self.at = here;
                    return Err(self.fail(format!("assertion failed{message}")));
                }
            }
            Stmt::Raise(s) => {
                let message = match &s.exc {
                    Some(exception) => self.exception(exception, env)?,
                    None => "an exception".into(),
                };
                self.at = here;
                return Err(self.fail(format!("the configuration raises {message}")));
            }
            Stmt::Pass(_) => {}
            Stmt::Break(_) => return Ok(Flow::Break),
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::ClassDef(_) => return Err(self.fail(unsupported("classes"))),
            Stmt::Try(_) => return Err(self.fail(unsupported("`try` blocks"))),
            Stmt::Match(_) => return Err(self.fail(unsupported("`match` blocks"))),
            Stmt::TypeAlias(_) | Stmt::IpyEscapeCommand(_) => {
                return Err(self.fail(unsupported("type aliases and shell commands")));
            }
        }
        Ok(Flow::Next)
    }

    /// `ValueError('text')` as text.
    fn exception(&mut self, exception: &Expr, env: Env) -> Result<String> {
        let (class, arguments) = match exception {
            Expr::Call(call) => (&*call.func, &*call.arguments.args),
            other => (other, &[][..]),
        };
        let Expr::Name(class) = class else { return Ok("an exception".into()) };
        let mut text = class.id.to_string();
        for argument in arguments {
            let value = self.eval(argument, env)?;
            text += &format!(": {}", self.display(&value)?);
        }
        Ok(text)
    }

    /// Gives `value` to a target of an assignment.
    pub(crate) fn assign(&mut self, target: &Expr, value: V, env: Env) -> Result<()> {
        match target {
            Expr::Name(name) => self.bind(&name.id, value, env),
            Expr::Tuple(tuple) => self.unpack(&tuple.elts, &value, env),
            Expr::List(list) => self.unpack(&list.elts, &value, env),
            Expr::Subscript(subscript) => {
                let owner = self.eval(&subscript.value, env)?;
                if matches!(&*subscript.slice, Expr::Slice(_)) {
                    return Err(self.fail("assignment to a slice is not supported in configurations"));
                }
                let index = self.eval(&subscript.slice, env)?;
                self.at = self.place_of(env.file, target.range());
                self.set_item(&owner, index, value)
            }
            Expr::Attribute(attribute) => {
                // Dictionaries of configurations are mmengine's, whose keys are attributes too.
                let owner = self.eval(&attribute.value, env)?;
                self.at = self.place_of(env.file, target.range());
                let V::Dict(dict) = owner else {
                    return Err(self.fail(format!("attributes of {} cannot be set", self.kind(&owner))));
                };
                self.set(dict, &attribute.attr, value)
            }
            _ => Err(self.fail("this cannot be assigned to")),
        }
    }

    fn unpack(&mut self, targets: &[Expr], value: &V, env: Env) -> Result<()> {
        let items = self.iterate(value)?;
        let starred = targets.iter().position(|target| matches!(target, Expr::Starred(_)));
        let fits = match starred {
            Some(_) => items.len() + 1 >= targets.len(),
            None => items.len() == targets.len(),
        };
        if !fits {
            return Err(self.fail(format!("{} values for {} names", items.len(), targets.len())));
        }
        let extra = (items.len() + 1).saturating_sub(targets.len());
        let mut items = items.into_iter();
        for target in targets {
            if let Expr::Starred(starred) = target {
                let rest: Vec<V> = items.by_ref().take(extra).collect();
                let rest = self.list(rest)?;
                self.assign(&starred.value, rest, env)?;
            } else if let Some(item) = items.next() {
                self.assign(target, item, env)?;
            }
        }
        Ok(())
    }

    /// Sets a variable where Python would.
    pub(crate) fn bind(&mut self, name: &str, value: V, env: Env) -> Result<()> {
        let Some(scope) = env.scope else { return self.set(env.globals, name, value) };
        self.charge(name.len() + 32)?;
        if !self.scope(scope).outer.iter().any(|outer| outer == name) {
            self.scope(scope).names.insert(name.to_owned(), value);
            return Ok(());
        }
        let mut parent = self.scope(scope).parent;
        while let Some(id) = parent {
            if self.scope(id).names.contains_key(name) {
                self.scope(id).names.insert(name.to_owned(), value);
                return Ok(());
            }
            parent = self.scope(id).parent;
        }
        self.set(env.globals, name, value)
    }

    fn declare_outer(&mut self, names: &[ast::Identifier], env: Env) {
        if let Some(scope) = env.scope {
            let names = names.iter().map(ToString::to_string);
            self.scope(scope).outer.extend(names);
        }
    }

    fn delete(&mut self, target: &Expr, env: Env) -> Result<()> {
        match target {
            Expr::Name(name) => {
                let gone = match env.scope {
                    Some(scope) => self.scope(scope).names.remove(name.id.as_str()).is_some(),
                    None => self.dict_mut(env.globals).remove(&Key::Str(name.id.as_str().into())).is_some(),
                };
                let missing = || format!("the name `{}` is not defined", name.id);
                if gone { Ok(()) } else { Err(self.fail(missing())) }
            }
            Expr::Tuple(tuple) => tuple.elts.iter().try_for_each(|target| self.delete(target, env)),
            Expr::Subscript(subscript) => {
                let owner = self.eval(&subscript.value, env)?;
                let index = self.eval(&subscript.slice, env)?;
                self.at = self.place_of(env.file, target.range());
                match (&owner, &index) {
                    (V::Dict(dict), key) => {
                        let hashed = self.key(key)?;
                        self.step(self.dict(*dict).entries.len())?;
                        let gone = self.dict_mut(*dict).remove(&hashed).is_some();
                        if gone { Ok(()) } else { Err(self.missing_key(*dict, key)?) }
                    }
                    (V::List(list), V::Int(index)) => {
                        let at = self.position(*index, self.items(*list).len())?;
                        self.items_mut(*list).remove(at);
                        Ok(())
                    }
                    _ => Err(self.fail(format!("nothing can be deleted from {}", self.kind(&owner)))),
                }
            }
            Expr::Attribute(attribute) => {
                let owner = self.eval(&attribute.value, env)?;
                let key = Key::Str(attribute.attr.as_str().into());
                match owner {
                    V::Dict(dict) if self.dict_mut(dict).remove(&key).is_some() => Ok(()),
                    other => Err(self.fail(format!("{} has no `{}` to delete", self.kind(&other), attribute.attr))),
                }
            }
            _ => Err(self.fail("this cannot be deleted")),
        }
    }

    /// `with read_base():` evaluates what it imports; there is no other `with`.
    fn with(&mut self, s: &ast::StmtWith, env: Env) -> Result<()> {
        let is_read_base = s.items.len() == 1
            && matches!(&s.items[0].context_expr, Expr::Call(call)
                if matches!(&*call.func, Expr::Name(name) if name.id.as_str() == "read_base"));
        if !is_read_base {
            return Err(self.fail("the only `with` of a configuration is `with read_base():`"));
        }
        for statement in &s.body {
            self.at = self.place_of(env.file, statement.range());
            match statement {
                Stmt::ImportFrom(import) => self.import_from(import, true, env)?,
                Stmt::Pass(_) => {}
                _ => return Err(self.fail("`with read_base():` holds `from … import …` lines only")),
            }
        }
        Ok(())
    }

    /// What is in a scope, for `locals()`.
    pub(crate) fn local_names(&mut self, env: Env) -> Result<V> {
        let Some(scope) = env.scope else { return Ok(V::Dict(env.globals)) };
        let Object::Scope(scope) = &self.heap[scope] else { return Ok(V::Dict(env.globals)) };
        let mut names: Vec<(String, V)> = scope.names.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let dict = self.new_dict(crate::heap::Dict::default())?;
        for (name, value) in names {
            self.set(dict, &name, value)?;
        }
        Ok(V::Dict(dict))
    }
}
