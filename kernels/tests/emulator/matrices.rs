//! `mma` against the product in `f64`, `ldmatrix` against the layout of its fragments.

use half::{bf16, f16};

use super::harness::{Random, kernel_text, run_kernel, run_words};

/// Element `i` of the first factor's fragment in `lane`: row and column, as the ISA has it for `.m16n8k16`, and for
/// `.m16n8k8`, where there are four.
fn a_place(lane: usize, i: usize, k: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    if k == 16 {
        let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
        (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
    } else {
        (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
    }
}

/// Of the second factor.
fn b_place(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, group)
}

/// Of the accumulator.
fn c_place(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

fn bits(ty: &str, x: f32) -> u16 {
    if ty == "bf16" { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
}

fn value(ty: &str, bits: u16) -> f64 {
    if ty == "bf16" { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() }
}

/// Runs one `mma`; `a: [16, k]`, `b: [k, 8]`, `c: [16, 8]`.
fn mma(ty: &str, k: usize, a: &[u16], b: &[u16], c: &[f32]) -> Vec<f32> {
    let mut input = vec![0_u32; 32 * 12];
    for lane in 0..32 {
        let words = &mut input[lane * 12..][..12];
        for i in 0..k / 2 {
            let (r, x) = a_place(lane, i, k);
            words[i / 2] |= u32::from(a[r * k + x]) << (16 * (i % 2));
        }
        for i in 0..k / 4 {
            let (x, n) = b_place(lane, i);
            words[4 + i / 2] |= u32::from(b[x * 8 + n]) << (16 * (i % 2));
        }
        for i in 0..4 {
            let (r, n) = c_place(lane, i);
            words[8 + i] = c[r * 8 + n].to_bits();
        }
    }
    let (fa, fb) = if k == 16 { ("{%r1, %r2, %r3, %r4}", "{%r5, %r6}") } else { ("{%r1, %r2}", "{%r5}") };
    let body = format!(
        "mad.wide.u32 %rd1, %tid, 48, %in;\nld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd1];\n\
         ld.global.v2.u32 {{%r5, %r6}}, [%rd1+16];\nld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%rd1+32];\n\
         mma.sync.aligned.m16n8k{k}.row.col.f32.{ty}.{ty}.f32 {{%f5, %f6, %f7, %f8}}, {fa}, {fb}, {{%f1, %f2, %f3, %f4}};\n\
         mad.wide.u32 %rd2, %tid, 16, %out;\nst.global.v4.f32 [%rd2], {{%f5, %f6, %f7, %f8}};"
    );
    let found = run_words("", &body, 32, &input, 128);
    let mut d = vec![0.0; 128];
    for lane in 0..32 {
        for i in 0..4 {
            let (r, n) = c_place(lane, i);
            d[r * 8 + n] = f32::from_bits(found[lane * 4 + i]);
        }
    }
    d
}

#[test]
fn products() {
    let mut random = Random(11);
    for ty in ["bf16", "f16"] {
        for k in [16, 8] {
            let a: Vec<u16> = (0..16 * k).map(|_| bits(ty, random.signed())).collect();
            let b: Vec<u16> = (0..k * 8).map(|_| bits(ty, random.signed() * 30.0)).collect();
            let c: Vec<f32> = (0..128).map(|_| random.signed() * 100.0).collect();
            let found = mma(ty, k, &a, &b, &c);
            for r in 0..16 {
                for n in 0..8 {
                    let exact = (0..k).fold(f64::from(c[r * 8 + n]), |sum, x| {
                        sum + value(ty, a[r * k + x]) * value(ty, b[x * 8 + n])
                    });
                    // These sums are exact in f64: one rounding is all there may be.
                    assert_eq!(found[r * 8 + n], exact as f32, "{ty} k{k} ({r}, {n})");
                }
            }
        }
    }
}

#[test]
fn infinities_and_nan() {
    let (mut a, b, c) = (vec![0x3f80_u16; 256], vec![0x3f80_u16; 128], vec![1.0; 128]);
    a[16] = 0x7f80;
    a[32] = 0x7fc1;
    (a[48], a[49]) = (0x7f80, 0xff80);
    let d = mma("bf16", 16, &a, &b, &c);
    assert_eq!((d[0], d[8]), (17.0, f32::INFINITY));
    assert_eq!((d[16].to_bits(), d[24].to_bits()), (0x7fff_ffff, 0x7fff_ffff));
}

#[test]
fn half_accumulators() {
    let body = "mov.b32 %r1, 0x3c003800;\nmov.b32 %r2, 0x40004000;\nmov.b32 %r3, 0x3c003c00;\n\
        mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r10, %r11}, {%r1, %r1, %r1, %r1}, {%r2, %r2}, {%r3, %r1};\n\
        mad.wide.u32 %rd2, %tid, 8, %out;\nst.global.v2.u32 [%rd2], {%r10, %r11};";
    let found = run_words("", body, 32, &[0], 64);
    // Sixteen products of 0.5 or 1 with 2: 24, and the accumulators 1, 1, 0.5, 1.
    let h = |x: f32| u32::from(f16::from_f32(x).to_bits());
    for pair in found.as_chunks::<2>().0 {
        assert_eq!(*pair, [h(25.0) | h(25.0) << 16, h(24.5) | h(25.0) << 16]);
    }
}

#[test]
fn ldmatrix() {
    for n in [1_usize, 2, 4] {
        for transposed in [false, true] {
            // Rows of the matrices are scattered: row `i` of all lies at 16 * (7 * i % 32).
            let registers = ["%r10", "%r11", "%r12", "%r13"][..n].join(", ");
            let trans = if transposed { ".trans" } else { "" };
            let body = format!(
                "mov.u32 %r1, tile;\nshl.b32 %r2, %tid, 4;\nadd.s32 %r3, %r1, %r2;\nmad.wide.u32 %rd1, %tid, 16, %in;\n\
                 ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd1];\nst.shared.v4.u32 [%r3], {{%r4, %r5, %r6, %r7}};\n\
                 bar.sync 0;\nmov.u32 %r10, 0;\nmov.u32 %r11, 0;\nmov.u32 %r12, 0;\nmov.u32 %r13, 0;\n\
                 mul.lo.u32 %r8, %tid, 7;\nand.b32 %r8, %r8, 31;\nmad.lo.u32 %r9, %r8, 16, %r1;\n\
                 ldmatrix.sync.aligned.m8n8.x{n}{trans}.shared.b16 {{{registers}}}, [%r9];\n\
                 mad.wide.u32 %rd2, %tid, 16, %out;\nst.global.v4.u32 [%rd2], {{%r10, %r11, %r12, %r13}};"
            );
            let halves: Vec<u16> = (0..256).collect();
            let text = kernel_text(".shared .align 16 .b8 tile[512];", &body);
            let out = run_kernel(text, 32, 0, bytemuck::cast_slice(&halves), 512).unwrap();
            let out: Vec<u16> = bytemuck::pod_collect_to_vec(&out);
            for lane in 0..32 {
                for m in 0..4 {
                    for i in 0..2 {
                        // Lane l holds elements 2 * (l % 4) and the next of row l / 4.
                        let (row, column) = (lane / 4, lane % 4 * 2 + i);
                        let (row, column) = if transposed { (column, row) } else { (row, column) };
                        let wanted = if m < n { halves[7 * (8 * m + row) % 32 * 8 + column] } else { 0 };
                        assert_eq!(out[lane * 8 + m * 2 + i], wanted, "x{n}{trans} lane {lane} matrix {m}");
                    }
                }
            }
        }
    }
}
