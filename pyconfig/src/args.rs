//! Calls: how arguments meet parameters.

use crate::{
    Result,
    heap::{Body, Dict, Function, Object, V},
    interp::{Env, Interp, MAX_CALLS},
    stmt::Flow,
};
use ruff_python_ast as ast;
use std::rc::Rc;

/// The arguments of a call, evaluated.
#[derive(Debug, Default)]
pub(crate) struct Args {
    pub positional: Vec<V>,
    pub named: Vec<(Rc<str>, V)>,
}

impl Args {
    pub(crate) fn of(positional: Vec<V>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// Takes a named argument out.
    pub(crate) fn take(&mut self, name: &str) -> Option<V> {
        let at = self.named.iter().position(|(n, _)| &**n == name)?;
        Some(self.named.remove(at).1)
    }
}

impl Interp<'_> {
    pub(crate) fn call_expression(&mut self, e: &ast::ExprCall, env: Env) -> Result<V> {
        let here = self.at;
        let function = self.eval(&e.func, env)?;
        let mut args = Args::of(self.elements(&e.arguments.args, env)?);
        for keyword in &e.arguments.keywords {
            let value = self.eval(&keyword.value, env)?;
            match &keyword.arg {
                Some(name) => args.named.push((name.as_str().into(), value)),
                None => {
                    let V::Dict(dict) = value else {
                        return Err(self.fail(format!("`**` wants a dict, not {}", self.kind(&value))));
                    };
                    for (key, value) in self.dict(dict).entries.clone() {
                        let V::Str(key) = key else { return Err(self.fail("names of arguments are text")) };
                        args.named.push((key, value));
                    }
                }
            }
        }
        self.at = here;
        // `locals()` and `globals()` depend on where they stand.
        match function {
            V::Builtin("locals") => self.local_names(env),
            V::Builtin("globals") => Ok(V::Dict(env.globals)),
            function => self.call(&function, args),
        }
    }

    /// Calls anything that can be called.
    pub(crate) fn call(&mut self, function: &V, args: Args) -> Result<V> {
        match function {
            V::Builtin(name) => {
                self.step(1 + args.positional.len())?;
                self.builtin(name, args)
            }
            V::Method(id) => {
                let Object::Method(owner, name) = &self.heap[*id] else { unreachable!("a method") };
                let (owner, name) = (owner.clone(), name.clone());
                self.step(1)?;
                self.method(&owner, &name, args)
            }
            V::Function(id) => {
                let Object::Function(function) = &self.heap[*id] else { unreachable!("a function") };
                let function = Rc::clone(function);
                self.call_function(&function, args)
            }
            V::Name(id) => Err(self.fail(format!(
                "{} cannot be called: what a configuration imports from a package is only a name here",
                self.dotted(*id)
            ))),
            other => Err(self.fail(format!("{} cannot be called", self.kind(other)))),
        }
    }

    fn call_function(&mut self, function: &Function, mut args: Args) -> Result<V> {
        let here = self.at;
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return Err(self.fail(format!("more than {MAX_CALLS} calls within each other: endless recursion?")));
        }
        self.enter()?;
        let scope = self.new_scope(function.scope, false)?;
        if let Some(parameters) = &function.parameters {
            self.bind_parameters(function, parameters, &mut args, scope)?;
        }
        if let Some((name, _)) = args.named.first() {
            return Err(self.fail(format!("{}() has no parameter `{name}`", function.name)));
        }
        if !args.positional.is_empty() {
            return Err(self.fail(format!("{}() takes fewer arguments", function.name)));
        }
        let env = Env { globals: function.globals, scope: Some(scope), file: function.at.file };
        let value = match &function.body {
            Body::Expression(e) => self.eval(e, env)?,
            Body::Block(block) => match self.block(block, env)? {
                Flow::Return(value) => value,
                _ => V::None,
            },
        };
        self.leave();
        self.calls -= 1;
        self.at = here;
        Ok(value)
    }

    fn bind_parameters(
        &mut self,
        function: &Function,
        parameters: &ast::Parameters,
        args: &mut Args,
        scope: usize,
    ) -> Result<()> {
        let mut positional = std::mem::take(&mut args.positional).into_iter();
        let by_position = parameters.posonlyargs.iter().chain(&parameters.args).map(|p| (p, true));
        let by_name = parameters.kwonlyargs.iter().map(|p| (p, false));
        for (parameter, takes_position) in by_position.chain(by_name) {
            let name = parameter.parameter.name.as_str();
            let given = if takes_position { positional.next() } else { None };
            let default = || function.defaults.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            let named = args.take(name);
            if given.is_some() && named.is_some() {
                return Err(self.fail(format!("{}() got `{name}` twice", function.name)));
            }
            let Some(value) = given.or(named).or_else(default) else {
                return Err(self.fail(format!("{}() lacks its argument `{name}`", function.name)));
            };
            self.scope(scope).names.insert(name.to_owned(), value);
        }
        let rest: Vec<V> = positional.collect();
        match &parameters.vararg {
            Some(vararg) => {
                let rest = self.tuple(rest)?;
                self.scope(scope).names.insert(vararg.name.to_string(), rest);
            }
            None => args.positional = rest,
        }
        if let Some(kwarg) = &parameters.kwarg {
            let dict = self.new_dict(Dict::default())?;
            for (name, value) in std::mem::take(&mut args.named) {
                self.set(dict, &name, value)?;
            }
            self.scope(scope).names.insert(kwarg.name.to_string(), V::Dict(dict));
        }
        Ok(())
    }
}
