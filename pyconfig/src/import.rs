//! `import` lines: other configurations, harmless stand-ins for parts of the standard library, and names.

use crate::{
    Module, Result,
    args::Args,
    heap::{Dict, V},
    interp::{Env, Interp},
    ops::number,
};
use ruff_python_ast as ast;

/// Packages whose classes and functions configurations name. Whether one exists here is decided where it is used.
const PACKAGES: &[&str] = &["opencompass", "mmengine", "torch", "transformers", "datasets", "vllm", "lmdeploy"];

/// What of the standard library exists. Everything is pure; the environment is empty.
const MODULES: &[(&str, &[&str])] = &[
    ("copy", &["deepcopy", "copy"]),
    ("functools", &["reduce"]),
    ("itertools", &["chain", "product"]),
    ("math", &["ceil", "exp", "floor", "inf", "isinf", "isnan", "log", "log10", "log2", "nan", "pi", "pow", "sqrt"]),
    ("os", &["environ", "getenv", "path", "sep"]),
    ("os.path", &["basename", "dirname", "join", "splitext"]),
    ("typing", &["Any", "Callable", "Dict", "List", "Optional", "Sequence", "Tuple", "Union"]),
];

impl Interp<'_> {
    /// `import a.b as c`.
    pub(crate) fn import(&mut self, alias: &ast::Alias, env: Env) -> Result<()> {
        let name = alias.name.as_str();
        let module = self.package(name)?;
        match &alias.asname {
            Some(asname) => self.bind(asname, module, env),
            None => {
                let first = name.split('.').next().unwrap_or(name);
                let module = self.package(first)?;
                self.bind(first, module, env)
            }
        }
    }

    /// The stand-in or name of a module.
    fn package(&mut self, name: &str) -> Result<V> {
        if let Some((module, _)) = MODULES.iter().find(|(module, _)| *module == name) {
            return Ok(V::Module(module));
        }
        let root = name.split('.').next().unwrap_or(name);
        if PACKAGES.contains(&root) {
            return self.new_name(name);
        }
        let modules: Vec<&str> = MODULES.iter().map(|(module, _)| *module).collect();
        Err(self.fail(format!(
            "the module `{name}` does not exist in configurations\n\nhint: they run without Python, without files and \
             without network; there are {}, and names of {}",
            modules.join(", "),
            PACKAGES.join(", ")
        )))
    }

    /// `from a.b import c`, in `with read_base():` or outside of it.
    pub(crate) fn import_from(&mut self, s: &ast::StmtImportFrom, is_base: bool, env: Env) -> Result<()> {
        let here = self.at;
        let module = s.module.as_ref().map_or("", |module| module.as_str());
        // mmengine reads configurations in `read_base` only; here they are recognised anywhere.
        if is_base || s.level > 0 || module.starts_with("opencompass.configs.") {
            return self.import_configuration(s, module, env);
        }
        for alias in &s.names {
            let name = alias.name.as_str();
            if name == "*" {
                self.note(format!(
                    "`from {module} import *` at {} has no effect: names are not known",
                    self.place(here)
                ));
                continue;
            }
            if module == "mmengine.config" && name == "read_base" {
                // Only `with read_base():` has a meaning.
                continue;
            }
            let package = self.package(module)?;
            let value = self.attribute(&package, name)?;
            self.bind(alias.asname.as_ref().map_or(name, |asname| asname.as_str()), value, env)?;
        }
        Ok(())
    }

    fn import_configuration(&mut self, s: &ast::StmtImportFrom, module: &str, env: Env) -> Result<()> {
        let here = self.at;
        let found = self.host.module(&self.file_name(env.file), s.level, module).map_err(|why| self.fail(why))?;
        let variables = match found {
            Module::File { name, source } => self.file(&name, &source)?,
            Module::Values(values) => {
                let dict = self.new_dict(Dict::default())?;
                for (name, value) in &values {
                    let value = self.import_value(value)?;
                    self.set(dict, name, value)?;
                }
                dict
            }
        };
        self.at = here;
        let wanted: Vec<(String, String)> = if s.names.iter().any(|alias| alias.name.as_str() == "*") {
            let names = self.dict(variables).entries.iter().filter_map(|(key, _)| match key {
                V::Str(name) if !name.starts_with("__") => Some((name.to_string(), name.to_string())),
                _ => None,
            });
            names.collect()
        } else {
            let name = |alias: &ast::Alias| {
                let asname = alias.asname.as_ref().unwrap_or(&alias.name);
                (alias.name.to_string(), asname.to_string())
            };
            s.names.iter().map(name).collect()
        };
        for (name, asname) in wanted {
            let Some(value) = self.dict(variables).str(&name).cloned() else {
                let known = self.dict(variables).entries.clone();
                let known: Vec<&str> = known
                    .iter()
                    .filter_map(|(key, value)| match (key, value) {
                        (V::Str(key), V::List(_) | V::Dict(_)) => Some(&**key),
                        _ => None,
                    })
                    .collect();
                return Err(self.fail(format!("`{module}` has no variable `{name}`; it has {}", known.join(", "))));
            };
            // What was imported belongs to the importing file alone.
            let value = self.copy(&value)?;
            self.bind(&asname, value, env)?;
        }
        Ok(())
    }

    /// An attribute of a stand-in.
    pub(crate) fn module_attribute(&mut self, module: &str, name: &str) -> Result<V> {
        let known = MODULES.iter().find(|(m, _)| *m == module).map_or(&[][..], |(_, names)| names);
        if !known.contains(&name) {
            return Err(self.fail(format!(
                "`{module}.{name}` does not exist in configurations; of `{module}` there are {}",
                known.join(", ")
            )));
        }
        Ok(match (module, name) {
            ("os", "path") => V::Module("os.path"),
            ("os", "sep") => self.str("/")?,
            ("os", "environ") => {
                self.note("os.environ is empty in configurations".into());
                V::Dict(self.new_dict(Dict::default())?)
            }
            ("math", "pi") => V::Float(std::f64::consts::PI),
            ("math", "inf") => V::Float(f64::INFINITY),
            ("math", "nan") => V::Float(f64::NAN),
            ("typing", _) => self.new_name(&format!("typing.{name}"))?,
            _ => {
                // The dotted name is known at compile time; find it among ours.
                let dotted = format!("{module}.{name}");
                let function = FUNCTIONS.iter().find(|function| **function == dotted);
                V::Builtin(function.ok_or_else(|| self.fail(format!("`{dotted}` does not exist in configurations")))?)
            }
        })
    }

    /// A function of a stand-in.
    pub(crate) fn module_function(&mut self, name: &str, args: &[V]) -> Result<V> {
        match (name, args) {
            ("copy.deepcopy", [v]) => return self.copy(v),
            ("copy.copy", [v]) => {
                return match v {
                    V::List(id) => {
                        let items = self.items(*id).clone();
                        self.list(items)
                    }
                    V::Dict(id) => {
                        let dict = self.dict(*id).clone();
                        self.new_dict(dict).map(V::Dict)
                    }
                    other => Ok(other.clone()),
                };
            }
            ("os.getenv", [_, rest @ ..]) if rest.len() < 2 => {
                self.note("os.getenv() finds nothing in configurations".into());
                return Ok(rest.first().cloned().unwrap_or(V::None));
            }
            ("functools.reduce", [function, items, rest @ ..]) if rest.len() < 2 => {
                let mut items = self.iterate(items)?.into_iter();
                let Some(mut total) = rest.first().cloned().or_else(|| items.next()) else {
                    return Err(self.fail("reduce() of nothing"));
                };
                for item in items {
                    total = self.call(function, Args::of(vec![total, item]))?;
                }
                return Ok(total);
            }
            ("itertools.chain", parts) => {
                let all = self.list(Vec::new())?;
                let V::List(id) = all else { return Ok(all) };
                for part in parts {
                    for item in self.iterate(part)? {
                        self.push(id, item)?;
                    }
                }
                return Ok(all);
            }
            ("itertools.product", parts) => {
                let mut rows: Vec<Vec<V>> = vec![Vec::new()];
                for part in parts {
                    let items = self.iterate(part)?;
                    let cells =
                        rows.len().saturating_mul(items.len()).saturating_mul(rows[..].first().map_or(1, Vec::len) + 1);
                    self.charge(cells.saturating_mul(size_of::<V>() + 8))?;
                    let longer = |row: &Vec<V>, item: &V| row.iter().chain([item]).cloned().collect::<Vec<V>>();
                    rows = rows.iter().flat_map(|row| items.iter().map(move |item| longer(row, item))).collect();
                    if rows.is_empty() {
                        break;
                    }
                }
                let rows = rows.into_iter().map(|row| self.tuple(row)).collect::<Result<Vec<_>>>()?;
                return self.list(rows);
            }
            _ => {}
        }
        if let Some(function) = name.strip_prefix("os.path.") {
            return self.path_function(function, args);
        }
        let x = |i: usize| args.get(i).and_then(number).map(|n| n.float());
        let value = match (name, x(0), x(1)) {
            ("math.ceil", Some(x), None) => return Ok(V::Int(x.ceil() as i64)),
            ("math.floor", Some(x), None) => return Ok(V::Int(x.floor() as i64)),
            ("math.isinf", Some(x), None) => return Ok(V::Bool(x.is_infinite())),
            ("math.isnan", Some(x), None) => return Ok(V::Bool(x.is_nan())),
            ("math.exp", Some(x), None) => x.exp(),
            ("math.sqrt", Some(x), None) if x >= 0.0 => x.sqrt(),
            ("math.log", Some(x), None) if x > 0.0 => x.ln(),
            ("math.log", Some(x), Some(base)) if x > 0.0 => x.ln() / base.ln(),
            ("math.log2", Some(x), None) if x > 0.0 => x.log2(),
            ("math.log10", Some(x), None) if x > 0.0 => x.log10(),
            ("math.pow", Some(x), Some(y)) => x.powf(y),
            _ => {
                let kinds: Vec<&str> = args.iter().map(|arg| self.kind(arg)).collect();
                return Err(self.fail(format!("{name}() does not take ({})", kinds.join(", "))));
            }
        };
        Ok(V::Float(value))
    }

    /// Paths as text: nothing is looked at.
    fn path_function(&mut self, function: &str, args: &[V]) -> Result<V> {
        let mut parts = Vec::new();
        for arg in args {
            let V::Str(part) = arg else { return Err(self.fail(format!("os.path.{function}() wants text"))) };
            parts.push(part.to_string());
        }
        let first = parts.first().cloned().unwrap_or_default();
        let (head, tail) = first.rsplit_once('/').unwrap_or(("", &first));
        match function {
            "dirname" => self.str(head),
            "basename" => self.str(tail),
            "splitext" => {
                let dot =
                    tail.rfind('.').filter(|dot| *dot > 0).map_or(first.len(), |dot| first.len() - tail.len() + dot);
                let (stem, ending) = (self.str(&first[..dot])?, self.str(&first[dot..])?);
                self.tuple(vec![stem, ending])
            }
            _ => {
                let mut path = String::new();
                for part in parts {
                    if part.starts_with('/') {
                        path.clear();
                    } else if !path.is_empty() && !path.ends_with('/') {
                        path.push('/');
                    }
                    path += &part;
                }
                self.str(path)
            }
        }
    }
}

/// The functions of the stand-ins.
const FUNCTIONS: &[&str] = &[
    "copy.copy",
    "copy.deepcopy",
    "functools.reduce",
    "itertools.chain",
    "itertools.product",
    "math.ceil",
    "math.exp",
    "math.floor",
    "math.isinf",
    "math.isnan",
    "math.log",
    "math.log10",
    "math.log2",
    "math.pow",
    "math.sqrt",
    "os.getenv",
    "os.path.basename",
    "os.path.dirname",
    "os.path.join",
    "os.path.splitext",
];
