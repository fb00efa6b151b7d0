//! One kernel around one instruction.

use oc_kernels::{
    cuda::device::{Arg, Device, Launch, Module},
    emulator::{Emulator, Fault},
};

/// Operands are `%a0`, `%a1`, …, the result is `%d`; all values travel as 64 bits.
pub struct Case {
    /// Instructions, e.g. `add.s32 %d, %a0, %a1;`.
    pub body: String,
    /// Types of the operands, e.g. `b32`, `f16`, `pred`.
    pub inputs: &'static [&'static str],
    /// Type of the result.
    pub output: &'static str,
}

/// The type in which a value goes to and from memory.
fn memory_type(ty: &str) -> &'static str {
    match ty {
        "pred" | "b32" | "u32" | "s32" | "f32" => "b32",
        "b16" | "f16" | "u16" | "s16" => "b16",
        _ => "b64",
    }
}

fn register_type(ty: &str) -> &str {
    match ty {
        "f32" | "f64" | "pred" => ty,
        ty => memory_type(ty),
    }
}

pub fn module(text: String) -> &'static Module {
    Box::leak(Box::new(Module { name: "test", ptx: Box::leak(text.into_boxed_str()) }))
}

pub fn kernel_text(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<64>;\n.reg .f32 %f<32>;\n.reg .b64 %rd<32>;\n\
         .reg .b64 %in, %out;\n.reg .b32 %tid;\n{declarations}\nld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n\
         mov.u32 %tid, %tid.x;\n{body}\nret;\n}}\n"
    )
}

/// Runs a kernel `k(in, out)` of one block; the output starts as zeros.
pub fn run_kernel(
    text: String,
    threads: u32,
    shared_bytes: u32,
    input: &[u8],
    out: usize,
) -> Result<Vec<u8>, Box<Fault>> {
    let device = Emulator::default();
    let module = module(text);
    let (a, b) = (device.alloc("in", input.len()).unwrap(), device.alloc("out", out).unwrap());
    device.upload(input, a).unwrap();
    device.upload(&vec![0; out], b).unwrap();
    let args = [Arg::Ptr(a), Arg::Ptr(b)];
    let launch = Launch { module, kernel: "k", grid: [1; 3], block: [threads, 1, 1], shared_bytes, args: &args };
    device.run(&launch)?;
    let mut bytes = vec![0; out];
    device.download(b, &mut bytes).unwrap();
    Ok(bytes)
}

/// As [`run_kernel`], with words, from declarations and body.
pub fn run_words(declarations: &str, body: &str, threads: u32, input: &[u32], out: usize) -> Vec<u32> {
    let text = kernel_text(declarations, body);
    match run_kernel(text.clone(), threads, 0, bytemuck::cast_slice(input), out * 4) {
        Ok(bytes) => bytemuck::pod_collect_to_vec(&bytes),
        Err(fault) => panic!("{fault}\n{text}"),
    }
}

/// The results for each of `inputs`, one thread each.
pub fn run(case: &Case, inputs: &[Vec<u64>]) -> Vec<u64> {
    let mut declarations = format!(".reg .{} %d;\n", register_type(case.output));
    let mut body = String::from("mad.wide.u32 %rd1, %tid, 32, %in;\nmad.wide.u32 %rd2, %tid, 8, %out;\n");
    for (i, ty) in case.inputs.iter().enumerate() {
        declarations += &format!(".reg .{} %a{i};\n", register_type(ty));
        let from = 8 * i;
        body += &match *ty {
            "pred" => format!("ld.global.b32 %r1, [%rd1+{from}];\nsetp.ne.b32 %a{i}, %r1, 0;\n"),
            ty => format!("ld.global.{} %a{i}, [%rd1+{from}];\n", memory_type(ty)),
        };
    }
    body += &case.body;
    body += &match case.output {
        "pred" => "\nselp.b32 %r1, 1, 0, %d;\nst.global.b32 [%rd2], %r1;".to_string(),
        ty => format!("\nst.global.{} [%rd2], %d;", memory_type(ty)),
    };
    let text = kernel_text(&declarations, &body);
    let mut results = Vec::new();
    for chunk in inputs.chunks(64) {
        let words: Vec<u64> =
            chunk.iter().flat_map(|values| (0..4).map(|i| values.get(i).copied().unwrap_or(0))).collect();
        match run_kernel(text.clone(), chunk.len() as u32, 0, bytemuck::cast_slice(&words), chunk.len() * 8) {
            Ok(bytes) => results.extend(bytemuck::pod_collect_to_vec::<u8, u64>(&bytes)),
            Err(fault) => panic!("{}: {fault}", case.body),
        }
    }
    results
}

/// All combinations of `values`, `n` at a time.
pub fn combinations(values: &[u64], n: usize) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new()];
    for _ in 0..n {
        all = all.iter().flat_map(|head| values.iter().map(|&v| [head.as_slice(), &[v]].concat())).collect();
    }
    all
}

/// Compares with `wanted`, input by input.
pub fn check(
    op: &str,
    inputs_types: &'static [&'static str],
    output: &'static str,
    inputs: &[Vec<u64>],
    wanted: impl Fn(&[u64]) -> u64,
) {
    let operands: Vec<String> = (0..inputs_types.len()).map(|i| format!("%a{i}")).collect();
    let body = if op.contains("%d") { op.to_string() } else { format!("{op} %d, {};", operands.join(", ")) };
    let case = Case { body, inputs: inputs_types, output };
    for (input, found) in inputs.iter().zip(run(&case, inputs)) {
        let wanted = wanted(input);
        assert_eq!(found, wanted, "{op}: {input:x?}: found {found:#x}, wanted {wanted:#x}");
    }
}

/// SplitMix64: reproducible test data.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
