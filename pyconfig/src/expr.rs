//! Expressions.

use crate::{
    Result,
    heap::{Body, Dict, Function, Id, Object, V},
    interp::{Env, Interp},
};
use ruff_python_ast::{self as ast, CmpOp, Expr, UnaryOp};
use ruff_text_size::Ranged;
use std::rc::Rc;

impl Interp<'_> {
    /// The value of `e`.
    pub(crate) fn eval(&mut self, e: &Expr, env: Env) -> Result<V> {
        self.at = self.place_of(env.file, e.range());
        self.enter()?;
        let value = self.expression(e, env);
        self.leave();
        value
    }

    fn expression(&mut self, e: &Expr, env: Env) -> Result<V> {
        let here = self.at;
        match e {
            Expr::NoneLiteral(_) => Ok(V::None),
            Expr::EllipsisLiteral(_) => Ok(V::Ellipsis),
            Expr::BooleanLiteral(e) => Ok(V::Bool(e.value)),
            Expr::NumberLiteral(e) => match &e.value {
                ast::Number::Int(n) => {
                    n.as_i64().map(V::Int).ok_or_else(|| self.fail("whole numbers beyond 64 bits are not supported"))
                }
                ast::Number::Float(x) => Ok(V::Float(*x)),
                ast::Number::Complex { .. } => Err(self.fail("complex numbers are not supported")),
            },
            Expr::StringLiteral(e) => self.str(e.value.to_str()),
            Expr::FString(e) => self.f_string(e, env),
            Expr::Name(e) => self.name(&e.id, env),
            Expr::List(e) => {
                let items = self.elements(&e.elts, env)?;
                self.list(items)
            }
            Expr::Tuple(e) => {
                let items = self.elements(&e.elts, env)?;
                self.tuple(items)
            }
            Expr::Set(e) => {
                let items = self.elements(&e.elts, env)?;
                self.new_set(items)
            }
            Expr::Dict(e) => {
                let dict = self.new_dict(Dict::default())?;
                for item in &e.items {
                    match &item.key {
                        Some(key) => {
                            let key = self.eval(key, env)?;
                            let value = self.eval(&item.value, env)?;
                            self.insert(dict, key, value)?;
                        }
                        None => {
                            let other = self.eval(&item.value, env)?;
                            self.merge(dict, &other)?;
                        }
                    }
                }
                Ok(V::Dict(dict))
            }
            Expr::ListComp(e) => {
                let items = self.comprehension(&e.elt, &e.generators, env)?;
                self.list(items)
            }
            Expr::Generator(e) => {
                let items = self.comprehension(&e.elt, &e.generators, env)?;
                self.list(items)
            }
            Expr::SetComp(e) => {
                let items = self.comprehension(&e.elt, &e.generators, env)?;
                self.new_set(items)
            }
            Expr::DictComp(e) => {
                let dict = self.new_dict(Dict::default())?;
                self.generators(&e.generators, env, &mut |this, inner| {
                    let key = this.eval(&e.key, inner)?;
                    let value = this.eval(&e.value, inner)?;
                    this.insert(dict, key, value)
                })?;
                Ok(V::Dict(dict))
            }
            Expr::BoolOp(e) => {
                let stops_at = e.op == ast::BoolOp::Or;
                let mut value = V::None;
                for operand in &e.values {
                    value = self.eval(operand, env)?;
                    if self.truth(&value) == stops_at {
                        break;
                    }
                }
                Ok(value)
            }
            Expr::Named(e) => {
                let value = self.eval(&e.value, env)?;
                self.assign(&e.target, value.clone(), self.outside_comprehension(env))?;
                Ok(value)
            }
            Expr::BinOp(e) => {
                let left = self.eval(&e.left, env)?;
                let right = self.eval(&e.right, env)?;
                self.at = here;
                self.binary(e.op, &left, &right)
            }
            Expr::UnaryOp(e) => {
                let value = self.eval(&e.operand, env)?;
                self.at = here;
                match (e.op, &value) {
                    (UnaryOp::Not, v) => Ok(V::Bool(!self.truth(v))),
                    (UnaryOp::USub, V::Int(n)) => {
                        n.checked_neg().map(V::Int).ok_or_else(|| self.fail("the number leaves 64 bits"))
                    }
                    (UnaryOp::USub, V::Bool(b)) => Ok(V::Int(-i64::from(*b))),
                    (UnaryOp::UAdd, V::Bool(b)) => Ok(V::Int(i64::from(*b))),
                    (UnaryOp::USub, V::Float(x)) => Ok(V::Float(-x)),
                    (UnaryOp::UAdd, V::Int(_) | V::Float(_)) => Ok(value),
                    (UnaryOp::Invert, V::Int(n)) => Ok(V::Int(!n)),
                    (op, v) => Err(self.fail(format!("`{}` cannot be applied to {}", op.as_str(), self.kind(v)))),
                }
            }
            Expr::Lambda(e) => self.function(
                "<lambda>",
                e.parameters.as_deref(),
                Body::Expression(Rc::new((*e.body).clone())),
                usize::from(e.range.len()),
                env,
            ),
            Expr::If(e) => {
                let test = self.eval(&e.test, env)?;
                self.eval(if self.truth(&test) { &e.body } else { &e.orelse }, env)
            }
            Expr::Compare(e) => {
                let mut left = self.eval(&e.left, env)?;
                for (op, right) in e.ops.iter().zip(&e.comparators) {
                    let right = self.eval(right, env)?;
                    self.at = here;
                    if !self.compare(*op, &left, &right)? {
                        return Ok(V::Bool(false));
                    }
                    left = right;
                }
                Ok(V::Bool(true))
            }
            Expr::Call(e) => self.call_expression(e, env),
            Expr::Attribute(e) => {
                let owner = self.eval(&e.value, env)?;
                self.at = here;
                self.attribute(&owner, &e.attr)
            }
            Expr::Subscript(e) => {
                let owner = self.eval(&e.value, env)?;
                if let Expr::Slice(slice) = &*e.slice {
                    let mut part = |bound: &Option<Box<Expr>>| match bound {
                        Some(bound) => match self.eval(bound, env)? {
                            V::None => Ok(None),
                            V::Int(n) => Ok(Some(n)),
                            other => Err(self.fail(format!("a slice wants whole numbers, not {}", self.kind(&other)))),
                        },
                        None => Ok(None),
                    };
                    let bounds = (part(&slice.lower)?, part(&slice.upper)?, part(&slice.step)?);
                    self.at = here;
                    return self.slice(&owner, bounds);
                }
                let index = self.eval(&e.slice, env)?;
                self.at = here;
                self.subscript(&owner, &index)
            }
            Expr::Starred(_) => Err(self.fail("`*` stands where nothing can be unpacked")),
            Expr::BytesLiteral(_) => Err(self.fail("bytes are not supported in configurations")),
            Expr::Slice(_) => Err(self.fail("a slice stands outside of brackets")),
            Expr::Await(_) | Expr::Yield(_) | Expr::YieldFrom(_) => {
                Err(self.fail("`await` and `yield` are not supported in configurations"))
            }
            Expr::TString(_) | Expr::IpyEscapeCommand(_) => Err(self.fail("this is not supported in configurations")),
        }
    }

    /// The elements of a display or of positional arguments, `*` unpacked.
    pub(crate) fn elements(&mut self, elements: &[Expr], env: Env) -> Result<Vec<V>> {
        let mut items = Vec::with_capacity(elements.len());
        for element in elements {
            if let Expr::Starred(starred) = element {
                let value = self.eval(&starred.value, env)?;
                let unpacked = self.iterate(&value)?;
                self.charge(unpacked.len() * size_of::<V>())?;
                items.extend(unpacked);
            } else {
                items.push(self.eval(element, env)?);
            }
        }
        Ok(items)
    }

    fn comprehension(&mut self, element: &Expr, generators: &[ast::Comprehension], env: Env) -> Result<Vec<V>> {
        let mut items = Vec::new();
        self.generators(generators, env, &mut |this, inner| {
            let item = this.eval(element, inner)?;
            this.charge(size_of::<V>())?;
            items.push(item);
            Ok(())
        })?;
        Ok(items)
    }

    /// Runs `each` for every combination of the generators, in a scope of its own.
    fn generators(
        &mut self,
        generators: &[ast::Comprehension],
        env: Env,
        each: &mut dyn FnMut(&mut Self, Env) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = generators.first() else { return Ok(()) };
        // The first iterable belongs to the outer scope: `locals()` there means the variables around it.
        let iterable = self.eval(&first.iter, env)?;
        let inner = Env { scope: Some(self.new_scope(env.scope, true)?), ..env };
        self.generator(generators, 0, Some(iterable), inner, each)
    }

    fn generator(
        &mut self,
        generators: &[ast::Comprehension],
        number: usize,
        iterable: Option<V>,
        env: Env,
        each: &mut dyn FnMut(&mut Self, Env) -> Result<()>,
    ) -> Result<()> {
        let Some(generator) = generators.get(number) else { return each(self, env) };
        if generator.is_async {
            return Err(self.fail("`async` is not supported in configurations"));
        }
        let iterable = match iterable {
            Some(iterable) => iterable,
            None => self.eval(&generator.iter, env)?,
        };
        self.enter()?;
        'items: for item in self.iterate(&iterable)? {
            self.step(1)?;
            self.assign(&generator.target, item, env)?;
            for test in &generator.ifs {
                let test = self.eval(test, env)?;
                if !self.truth(&test) {
                    continue 'items;
                }
            }
            self.generator(generators, number + 1, None, env, each)?;
        }
        self.leave();
        Ok(())
    }

    fn outside_comprehension(&self, env: Env) -> Env {
        let mut scope = env.scope;
        while let Some(id) = scope {
            match &self.heap[id] {
                Object::Scope(inner) if inner.is_comprehension => scope = inner.parent,
                _ => break,
            }
        }
        Env { scope, ..env }
    }

    /// The value of a name: local, of what encloses it, of the file, or ours.
    fn name(&mut self, name: &str, env: Env) -> Result<V> {
        let mut scope = env.scope;
        while let Some(id) = scope {
            let Object::Scope(inner) = &self.heap[id] else { break };
            if let Some(value) = inner.names.get(name) {
                return Ok(value.clone());
            }
            scope = inner.parent;
        }
        if let Some(value) = self.dict(env.globals).str(name) {
            return Ok(value.clone());
        }
        match crate::builtins::find(name) {
            Some(builtin) => Ok(V::Builtin(builtin)),
            None => Err(self.fail(format!("the name `{name}` is not defined"))),
        }
    }

    /// A new function of the file.
    pub(crate) fn function(
        &mut self,
        name: &str,
        parameters: Option<&ast::Parameters>,
        body: Body,
        source_bytes: usize,
        env: Env,
    ) -> Result<V> {
        let at = self.at;
        let mut defaults = Vec::new();
        for parameter in parameters.into_iter().flat_map(|p| p.iter_non_variadic_params()) {
            if let Some(default) = &parameter.default {
                defaults.push((parameter.parameter.name.to_string(), self.eval(default, env)?));
            }
        }
        let parameters = parameters.map(|p| Box::new(p.clone()));
        let (scope, globals) = (env.scope, env.globals);
        let function = Function { name: name.into(), parameters, body, defaults, scope, globals, at };
        self.new_function(function, source_bytes)
    }

    /// Whether a comparison holds.
    fn compare(&mut self, op: CmpOp, left: &V, right: &V) -> Result<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        Ok(match op {
            CmpOp::Eq => self.equal(left, right)?,
            CmpOp::NotEq => !self.equal(left, right)?,
            CmpOp::Is => self.same(left, right),
            CmpOp::IsNot => !self.same(left, right),
            CmpOp::In => self.contains(right, left)?,
            CmpOp::NotIn => !self.contains(right, left)?,
            CmpOp::Lt => self.order(left, right)? == Some(Less),
            CmpOp::LtE => matches!(self.order(left, right)?, Some(Less | Equal)),
            CmpOp::Gt => self.order(left, right)? == Some(Greater),
            CmpOp::GtE => matches!(self.order(left, right)?, Some(Greater | Equal)),
        })
    }

    /// Copies the entries of a mapping, or of a list of pairs, into `dict`.
    pub(crate) fn merge(&mut self, dict: Id, other: &V) -> Result<()> {
        if let V::Dict(other) = other {
            for (key, value) in self.dict(*other).entries.clone() {
                self.insert(dict, key, value)?;
            }
            return Ok(());
        }
        for pair in self.iterate(other)? {
            let pair = self.iterate(&pair)?;
            let Ok([key, value]) = <[V; 2]>::try_from(pair) else {
                return Err(self.fail("a dict wants pairs of a key and a value"));
            };
            self.insert(dict, key, value)?;
        }
        Ok(())
    }
}
