//! What a kernel's source declares: how much it may use, and which instructions it must come to.

use std::fmt;

/// Most shared memory a block can have on every GPU from `sm_80` on, in bytes (`sm_86`, `sm_89` and `sm_120` set it).
const EVERY_GPU_SHARED: u32 = 99 << 10;
/// The same of `sm_90a`.
const HOPPER_SHARED: u32 = 227 << 10;

/// What a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block, dynamic included.
    pub shared: u32,
    /// Bytes of local memory of a thread.
    pub local: u32,
}

/// The declarations of one file, each with its line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    budgets: Vec<(usize, String, Budget)>,
    sass: Vec<(usize, String, Vec<String>)>,
}

/// A line that is no declaration, though it starts like one.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// What is wrong with it, and what was wanted.
    pub message: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl Claims {
    /// Reads the comment lines `// budget …: …` and `// sass …: …` of a file for `arch`.
    ///
    /// # Errors
    /// The first line that does not parse.
    pub fn parse(source: &str, arch: &str) -> Result<Self, BadLine> {
        let mut claims = Self::default();
        for (line, text) in source.lines().enumerate().map(|(i, text)| (i + 1, text)) {
            let bad = |message: String| BadLine { line, message };
            let Some(text) = text.trim().strip_prefix("//").map(str::trim_start) else { continue };
            let word = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("");
            if word != "budget" && word != "sass" {
                continue;
            }
            let Some((head, list)) = text[word.len()..].split_once(':') else {
                return Err(bad(format!("`// {word}` wants a colon: `// {word} pattern: …`")));
            };
            let pattern = if head.trim().is_empty() { "*" } else { head.trim() };
            if !pattern.chars().all(|c| c.is_ascii_alphanumeric() || "_*".contains(c)) {
                return Err(bad(format!("`{pattern}` is no pattern of kernel names: letters, digits, _ and *")));
            }
            if word == "sass" {
                let list: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
                claims.sass.push((line, pattern.to_owned(), check_opcodes(list).map_err(bad)?));
            } else {
                claims.budgets.push((line, pattern.to_owned(), parse_budget(list, arch).map_err(bad)?));
            }
        }
        Ok(claims)
    }

    /// What `kernel` may use: the last line that fits it.
    pub fn budget(&self, kernel: &str) -> Option<Budget> {
        self.budgets.iter().rev().find(|(_, pattern, _)| fits(pattern, kernel)).map(|(_, _, budget)| *budget)
    }

    /// The instructions claimed of `kernel` by every line that fits it.
    pub fn sass<'a>(&'a self, kernel: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.sass.iter().filter(move |(_, pattern, _)| fits(pattern, kernel));
        lines.flat_map(|(_, _, list)| list.iter().map(String::as_str))
    }

    /// Lines whose pattern fits none of `kernels`.
    pub fn idle(&self, kernels: &[&str]) -> Vec<BadLine> {
        let budgets = self.budgets.iter().map(|(line, pattern, _)| (*line, pattern));
        let sass = self.sass.iter().map(|(line, pattern, _)| (*line, pattern));
        let idle = budgets.chain(sass).filter(|(_, pattern)| !kernels.iter().any(|kernel| fits(pattern, kernel)));
        let message = |pattern| format!("no kernel is called `{pattern}`; there are {}", kernels.join(", "));
        idle.map(|(line, pattern)| BadLine { line, message: message(pattern) }).collect()
    }
}

fn parse_budget(list: &str, arch: &str) -> Result<Budget, String> {
    let (mut registers, mut shared, mut local) = (None, None, None);
    for item in list.split(',').map(str::trim) {
        let (key, value) = item.split_once(' ').ok_or_else(|| format!("`{item}` is not of the form `key number`"))?;
        let slot = match key {
            "registers" => &mut registers,
            "shared" => &mut shared,
            "local" => &mut local,
            _ => return Err(format!("unknown key `{key}`; there are registers, shared and local")),
        };
        let number: u32 = value.trim().parse().map_err(|_| format!("{key}: `{value}` is no whole number"))?;
        if slot.replace(number).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let registers = registers.ok_or("registers is missing")?;
    let budget = Budget { registers, shared: shared.unwrap_or(0), local: local.unwrap_or(0) };
    if !(1..=255).contains(&budget.registers) {
        return Err(format!("registers {registers}: a thread has 1 to 255"));
    }
    let most = if arch == "compute_90a" { HOPPER_SHARED } else { EVERY_GPU_SHARED };
    if budget.shared > most {
        return Err(format!(
            "shared {}: a block has at most {most} bytes on every GPU that runs {arch}",
            budget.shared
        ));
    }
    Ok(budget)
}

/// Refuses what cannot be an instruction.
fn check_opcodes(list: Vec<String>) -> Result<Vec<String>, String> {
    if list.is_empty() {
        return Err("no instruction is named".into());
    }
    let is_opcode = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "._".contains(c))
    };
    match list.iter().find(|item| !is_opcode(item.strip_prefix('!').unwrap_or(item))) {
        Some(item) => Err(format!("`{item}` is no instruction of the assembler, e.g. LDG.E.128")),
        None => Ok(list),
    }
}

/// Whether `pattern`, in which `*` stands for anything, fits all of `name`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => {
            name.strip_prefix(head).is_some_and(|tail| (0..=tail.len()).any(|at| fits(rest, &tail[at..])))
        }
    }
}

/// Whether an instruction `opcode` is what `claim` names: the same leading name, and the other parts of the claim among
/// those of the instruction, in order.
pub fn is_instance(opcode: &str, claim: &str) -> bool {
    let (mut parts, mut wanted) = (opcode.split('.'), claim.split('.'));
    parts.next() == wanted.next() && wanted.all(|want| parts.any(|part| part == want))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
// A product of matrices; its budget is generous.
//
// budget: registers 64
// budget gemm_*: registers 128, shared 98304
//   budget gemm_*_tail: registers 168, shared 1024, local 16
// sass gemm_*: LDG.E.128 HMMA.16816
// sass *: !LDL
extern \"C\" __global__ void gemm_wide() {}
";

    fn refused(line: &str) -> String {
        let error = Claims::parse(&format!("\n{line}\n"), "compute_80").expect_err(line);
        assert_eq!(error.line, 2);
        error.message
    }

    #[test]
    fn the_last_budget_that_fits_holds_and_claims_add_up() {
        let claims = Claims::parse(SOURCE, "compute_80").unwrap();
        assert_eq!(claims.budget("other"), Some(Budget { registers: 64, shared: 0, local: 0 }));
        assert_eq!(claims.budget("gemm_wide"), Some(Budget { registers: 128, shared: 98304, local: 0 }));
        assert_eq!(claims.budget("gemm_wide_tail"), Some(Budget { registers: 168, shared: 1024, local: 16 }));
        assert_eq!(claims.sass("gemm_wide").collect::<Vec<_>>(), ["LDG.E.128", "HMMA.16816", "!LDL"]);
        assert_eq!(claims.sass("other").collect::<Vec<_>>(), ["!LDL"]);
        let idle: Vec<usize> = claims.idle(&["gemm_wide", "other"]).iter().map(|line| line.line).collect();
        assert_eq!(idle, [5]);
        assert_eq!(Claims::parse("// a file without any\n", "compute_80").unwrap().budget("k"), None);
    }

    #[test]
    fn lines_that_are_not_understood_are_refused() {
        assert!(refused("// budget: registers 64, regs 3").contains("`regs`"));
        assert!(refused("// budget: registers sixty").contains("`sixty`"));
        assert!(refused("// budget: registers 64, registers 65").contains("twice"));
        assert!(refused("// budget: shared 64").contains("registers is missing"));
        assert!(refused("// budget: registers 256").contains("255"));
        assert!(refused("// budget: registers").contains("key number"));
        assert!(refused("// budget registers 64").contains("colon"));
        assert!(refused("// budget for gemm: registers 64").contains("no pattern"));
        assert!(refused("// budget: registers 64, shared 101377").contains("101376"));
        assert!(refused("// sass gemm_*:").contains("no instruction"));
        assert!(refused("// sass: ldmatrix").contains("`ldmatrix`"));
        let hopper = Claims::parse("// budget: registers 64, shared 232448", "compute_90a").unwrap();
        assert_eq!(hopper.budget("k").unwrap().shared, 232_448);
    }

    #[test]
    fn instructions_match_by_parts() {
        assert!(is_instance("LDG.E.128.CONSTANT", "LDG.E.128"));
        assert!(is_instance("LDGSTS.E.BYPASS.LTC128B.128", "LDGSTS.128"));
        assert!(is_instance("HMMA.16816.F32.BF16", "HMMA.16816"));
        assert!(!is_instance("LDG.E.64", "LDG.E.128"));
        assert!(!is_instance("LDGSTS.E.128", "LDG.E.128"));
        assert!(!is_instance("HMMA.1688.F32", "HMMA.16816"));
    }

    #[test]
    fn patterns_fit_whole_names() {
        assert!(fits("*", "") && fits("a*c*", "abcd") && fits("gemm", "gemm"));
        assert!(!fits("gemm", "gemm_wide") && !fits("a*c", "abcd") && !fits("", "a"));
    }
}
