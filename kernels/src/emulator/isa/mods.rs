//! The modifiers of an opcode. Each must be asked for: what is left over is not known.

use crate::emulator::ptx::{PtxError, Statement, Ty};

/// `ld.global.v4.u32` → `ld` and the rest.
pub(super) struct Mods<'a> {
    pub(super) name: &'a str,
    rest: Vec<(&'a str, bool)>,
    statement: &'a Statement,
}

impl<'a> Mods<'a> {
    pub(super) fn new(statement: &'a Statement) -> Self {
        let mut parts = statement.opcode.split('.');
        let name = parts.next().unwrap_or("");
        Self { name, rest: parts.map(|part| (part, false)).collect(), statement }
    }

    /// Whether the modifier is there.
    pub(super) fn has(&mut self, name: &str) -> bool {
        match self.rest.iter_mut().find(|(part, used)| *part == name && !used) {
            Some((_, used)) => {
                *used = true;
                true
            }
            None => false,
        }
    }

    /// The one of `names` that is there.
    pub(super) fn one_of<T: Copy>(&mut self, names: &[(&str, T)]) -> Option<T> {
        names.iter().find(|(name, _)| self.has(name)).map(|&(_, value)| value)
    }

    /// As [`Mods::one_of`], but one must be there.
    pub(super) fn must<T: Copy>(&mut self, what: &str, names: &[(&str, T)]) -> Result<T, PtxError> {
        match self.one_of(names) {
            Some(value) => Ok(value),
            None => {
                let names: Vec<_> = names.iter().map(|(name, _)| format!(".{name}")).collect();
                self.error(format!("wanted {what}: one of {}", names.join(" ")))
            }
        }
    }

    /// The next type.
    pub(super) fn ty(&mut self) -> Result<Ty, PtxError> {
        for (part, used) in self.rest.iter_mut().filter(|(_, used)| !*used) {
            if let Some(ty) = Ty::from_name(part) {
                *used = true;
                return Ok(ty);
            }
        }
        self.error("wanted a type")
    }

    /// Says that this instruction is not known.
    pub(super) fn error<T>(&self, why: impl std::fmt::Display) -> Result<T, PtxError> {
        Err(PtxError::new(self.statement.line, format!("instruction `{}`: {why}", self.statement.opcode)))
    }

    /// That a type is not known here.
    pub(super) fn bad_type<T>(&self, ty: Ty) -> Result<T, PtxError> {
        self.error(format!("type {ty:?} is not known here"))
    }

    /// Every modifier must have been used.
    pub(super) fn finish(&self) -> Result<(), PtxError> {
        match self.rest.iter().find(|(_, used)| !used) {
            Some((part, _)) => self.error(format!("modifier `.{part}` is not known here")),
            None => Ok(()),
        }
    }
}
