//! Integers and bits, in arithmetic of 128 bits or bit by bit.

use super::harness::{check, combinations};

const V16: [u64; 9] = [0, 1, 2, 7, 0x7fff, 0x8000, 0xffff, 0x1234, 0xfff0];
const V32: [u64; 11] = [0, 1, 2, 13, 31, 32, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xdead_beef, 0x1234_5678];
const V64: [u64; 10] = [
    0,
    1,
    33,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    0xffff_ffff,
    0x1_0000_0000,
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
];

fn values(bits: u32) -> &'static [u64] {
    match bits {
        16 => &V16,
        32 => &V32,
        _ => &V64,
    }
}

fn types(bits: u32) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
    match bits {
        16 => ("b16", &["b16", "b16"], &["b16", "b16", "b16"]),
        32 => ("b32", &["b32", "b32"], &["b32", "b32", "b32"]),
        _ => ("b64", &["b64", "b64"], &["b64", "b64", "b64"]),
    }
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// As a number.
fn value(x: u64, bits: u32, signed: bool) -> i128 {
    let x = i128::from(x & mask(bits));
    if signed && x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

#[test]
fn arithmetic() {
    for bits in [16, 32, 64] {
        let (out, two, _) = types(bits);
        let inputs = combinations(values(bits), 2);
        for signed in [false, true] {
            let ty = format!("{}{bits}", if signed { 's' } else { 'u' });
            let number = |x: u64| value(x, bits, signed);
            type F = fn(i128, i128) -> i128;
            let ops: [(&str, F); 8] = [
                ("add", |a, b| a + b),
                ("sub", |a, b| a - b),
                ("mul.lo", |a, b| a.wrapping_mul(b)),
                ("min", |a, b| a.min(b)),
                ("max", |a, b| a.max(b)),
                // Truncated, all ones for a division by zero.
                ("div", |a, b| if b == 0 { -1 } else { a / b }),
                ("rem", |a, b| if b == 0 { -1 } else { a % b }),
                ("mul.hi", |a, b| a.wrapping_mul(b)),
            ];
            for (op, f) in ops {
                // The remainder by zero is not specified.
                let inputs: Vec<_> =
                    inputs.iter().filter(|v| !matches!(op, "div" | "rem") || v[1] & mask(bits) != 0).cloned().collect();
                check(&format!("{op}.{ty}"), two, out, &inputs, |v| {
                    let shift = if op == "mul.hi" { bits } else { 0 };
                    if op.starts_with("mul") && !signed && bits == 64 {
                        let product = u128::from(v[0]) * u128::from(v[1]);
                        return (product >> shift) as u64;
                    }
                    (f(number(v[0]), number(v[1])) >> shift) as u64 & mask(bits)
                });
            }
        }
    }
}

#[test]
fn unary_and_saturated() {
    for bits in [16, 32, 64] {
        let (out, _, _) = types(bits);
        let one: &'static [&'static str] = match bits {
            16 => &["b16"],
            32 => &["b32"],
            _ => &["b64"],
        };
        let inputs = combinations(values(bits), 1);
        check(&format!("abs.s{bits}"), one, out, &inputs, |v| {
            value(v[0], bits, true).unsigned_abs() as u64 & mask(bits)
        });
        check(&format!("neg.s{bits}"), one, out, &inputs, |v| (-value(v[0], bits, true)) as u64 & mask(bits));
        check(&format!("not.b{bits}"), one, out, &inputs, |v| !v[0] & mask(bits));
        check(&format!("cnot.b{bits}"), one, out, &inputs, |v| u64::from(v[0] == 0));
    }
    let inputs = combinations(&V32, 2);
    let clamp = |x: i128| x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64 & 0xffff_ffff;
    check("add.sat.s32", &["b32", "b32"], "b32", &inputs, |v| clamp(value(v[0], 32, true) + value(v[1], 32, true)));
    check("sub.sat.s32", &["b32", "b32"], "b32", &inputs, |v| clamp(value(v[0], 32, true) - value(v[1], 32, true)));
}

#[test]
fn wide_and_multiply_add() {
    for signed in [false, true] {
        let s = if signed { 's' } else { 'u' };
        let product = |v: &[u64], bits| value(v[0], bits, signed) * value(v[1], bits, signed);
        check(&format!("mul.wide.{s}16"), &["b16", "b16"], "b32", &combinations(&V16, 2), |v| {
            product(v, 16) as u64 & mask(32)
        });
        check(&format!("mul.wide.{s}32"), &["b32", "b32"], "b64", &combinations(&V32, 2), |v| product(v, 32) as u64);
        let three = combinations(&V32, 3);
        check(&format!("mad.lo.{s}32"), &["b32", "b32", "b32"], "b32", &three, |v| {
            (product(v, 32) + i128::from(v[2])) as u64 & mask(32)
        });
        check(&format!("mad.hi.{s}32"), &["b32", "b32", "b32"], "b32", &three, |v| {
            ((product(v, 32) >> 32) + i128::from(v[2])) as u64 & mask(32)
        });
        check(&format!("mad.wide.{s}32"), &["b32", "b32", "b64"], "b64", &three, |v| {
            (product(v, 32) + i128::from(v[2])) as u64
        });
        check(&format!("mad.lo.{s}16"), &["b16", "b16", "b16"], "b16", &combinations(&V16, 3), |v| {
            (product(v, 16) + i128::from(v[2])) as u64 & mask(16)
        });
        check(&format!("mad.wide.{s}16"), &["b16", "b16", "b32"], "b32", &combinations(&V16, 3), |v| {
            (product(v, 16) + i128::from(v[2])) as u64 & mask(32)
        });
        check(&format!("mad.lo.{s}64"), &["b64", "b64", "b64"], "b64", &combinations(&V64, 3), |v| {
            v[0].wrapping_mul(v[1]).wrapping_add(v[2])
        });
        check(&format!("sad.{s}32"), &["b32", "b32", "b32"], "b32", &three, |v| {
            ((value(v[0], 32, signed) - value(v[1], 32, signed)).abs() + i128::from(v[2])) as u64 & mask(32)
        });
    }
}

#[test]
fn logic_and_shifts() {
    for bits in [16, 32, 64] {
        let (out, two, _) = types(bits);
        let inputs = combinations(values(bits), 2);
        check(&format!("and.b{bits}"), two, out, &inputs, |v| v[0] & v[1]);
        check(&format!("or.b{bits}"), two, out, &inputs, |v| v[0] | v[1]);
        check(&format!("xor.b{bits}"), two, out, &inputs, |v| v[0] ^ v[1]);
        let shifts: Vec<Vec<u64>> = values(bits)
            .iter()
            .flat_map(|&v| [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 1000, 0xffff_ffff].map(|s| vec![v, s]))
            .collect();
        let by: &'static [&'static str] = match bits {
            16 => &["b16", "b32"],
            32 => &["b32", "b32"],
            _ => &["b64", "b32"],
        };
        // Amounts above the width are clamped to it.
        let amount = |v: &[u64]| v[1].min(u64::from(bits));
        check(&format!("shl.b{bits}"), by, out, &shifts, |v| (u128::from(v[0]) << amount(v)) as u64 & mask(bits));
        check(&format!("shr.u{bits}"), by, out, &shifts, |v| (u128::from(v[0]) >> amount(v)) as u64);
        check(&format!("shr.s{bits}"), by, out, &shifts, |v| {
            (value(v[0], bits, true) >> amount(v)) as u64 & mask(bits)
        });
    }
    let two = combinations(&[0, 1], 2);
    check("and.pred", &["pred", "pred"], "pred", &two, |v| v[0] & v[1]);
    check("or.pred", &["pred", "pred"], "pred", &two, |v| v[0] | v[1]);
    check("xor.pred", &["pred", "pred"], "pred", &two, |v| v[0] ^ v[1]);
    check("not.pred", &["pred"], "pred", &combinations(&[0, 1], 1), |v| v[0] ^ 1);
    check("and.pred %d, %a0, !%a1;", &["pred", "pred"], "pred", &two, |v| v[0] & (v[1] ^ 1));
    check("mov.pred", &["pred"], "pred", &combinations(&[0, 1], 1), |v| v[0]);
}

/// Bit `i`.
fn bit(x: u64, i: u64) -> u64 {
    if i < 64 { x >> i & 1 } else { 0 }
}

#[test]
fn fields() {
    let places = [0_u64, 1, 5, 8, 31, 32, 40, 63, 64, 255, 256];
    let inputs = |values: &[u64]| -> Vec<Vec<u64>> {
        values.iter().flat_map(|&v| places.iter().flat_map(move |&p| places.map(move |l| vec![v, p, l]))).collect()
    };
    for (bits, all, ins) in [
        (32_u64, inputs(&V32), &["b32", "b32", "b32"] as &'static [&'static str]),
        (64, inputs(&V64), &["b64", "b32", "b32"]),
    ] {
        for signed in [false, true] {
            let s = if signed { 's' } else { 'u' };
            let out = if bits == 32 { "b32" } else { "b64" };
            // The ISA's own loop.
            check(&format!("bfe.{s}{bits}"), ins, out, &all, |v| {
                let (a, pos, len) = (v[0], v[1] & 255, v[2] & 255);
                let msb = bits - 1;
                let sign = if !signed || len == 0 { 0 } else { bit(a, (pos + len - 1).min(msb)) };
                (0..=msb).fold(0, |d, i| d | if i < len && pos + i <= msb { bit(a, pos + i) } else { sign } << i)
            });
        }
    }
    let four: Vec<Vec<u64>> = inputs(&V32).into_iter().map(|v| vec![v[0], 0xa5a5_5a5a, v[1], v[2]]).collect();
    let four64: Vec<Vec<u64>> = inputs(&V64).into_iter().map(|v| vec![v[0], !v[0] ^ 0xff00, v[1], v[2]]).collect();
    let reference = |v: &[u64], msb: u64| {
        let (a, mut f, pos, len) = (v[0], v[1], v[2] & 255, v[3] & 255);
        for i in 0..len {
            if pos + i <= msb {
                f = f & !(1 << (pos + i)) | bit(a, i) << (pos + i);
            }
        }
        f
    };
    check("bfi.b32", &["b32", "b32", "b32", "b32"], "b32", &four, |v| reference(v, 31));
    check("bfi.b64", &["b64", "b64", "b32", "b32"], "b64", &four64, |v| reference(v, 63));
    let (one32, one64) = (combinations(&V32, 1), combinations(&V64, 1));
    let count = |x: u64| (0..64).map(|i| bit(x, i)).sum::<u64>();
    check("popc.b32", &["b32"], "b32", &one32, |v| count(v[0]));
    check("popc.b64", &["b64"], "b32", &one64, |v| count(v[0]));
    let zeros = |x: u64, bits: u64| (0..bits).take_while(|i| bit(x, bits - 1 - i) == 0).count() as u64;
    check("clz.b32", &["b32"], "b32", &one32, |v| zeros(v[0], 32));
    check("clz.b64", &["b64"], "b32", &one64, |v| zeros(v[0], 64));
    let reversed = |x: u64, bits: u64| (0..bits).fold(0, |d, i| d | bit(x, i) << (bits - 1 - i));
    check("brev.b32", &["b32"], "b32", &one32, |v| reversed(v[0], 32));
    check("brev.b64", &["b64"], "b64", &one64, |v| reversed(v[0], 64));
    let find = |x: u64, bits: u64| (0..bits).rev().find(|&i| bit(x, i) == 1).unwrap_or(0xffff_ffff);
    check("bfind.u32", &["b32"], "b32", &one32, |v| find(v[0], 32));
    check("bfind.u64", &["b64"], "b32", &one64, |v| find(v[0], 64));
    check("bfind.s32", &["b32"], "b32", &one32, |v| {
        find(if bit(v[0], 31) == 1 { !v[0] & 0xffff_ffff } else { v[0] }, 32)
    });
    check("bfind.shiftamt.u32", &["b32"], "b32", &one32, |v| match find(v[0], 32) {
        0xffff_ffff => 0xffff_ffff,
        i => 31 - i,
    });
}

#[test]
fn permutations() {
    let selectors = [0x3210_u64, 0x7654, 0x0123, 0xfedc, 0x8888, 0x5140, 0x1032, 0xb3f7];
    let inputs: Vec<Vec<u64>> =
        combinations(&V32, 2).into_iter().flat_map(|v| selectors.map(|s| vec![v[0], v[1], s])).collect();
    check("prmt.b32", &["b32", "b32", "b32"], "b32", &inputs, |v| {
        let bytes: Vec<u8> = [v[0] as u32, v[1] as u32].iter().flat_map(|x| x.to_le_bytes()).collect();
        (0..4).fold(0, |d, i| {
            let pick = (v[2] >> (4 * i)) as usize & 15;
            let byte = bytes[pick & 7];
            let byte = if pick < 8 {
                byte
            } else if byte >= 0x80 {
                0xff
            } else {
                0
            };
            d | u64::from(byte) << (8 * i)
        })
    });
    let shifts: Vec<Vec<u64>> = combinations(&V32, 2)
        .into_iter()
        .flat_map(|v| [0, 1, 8, 31, 32, 33, 64, 0xffff_ffff].map(|s| vec![v[0], v[1], s]))
        .collect();
    for (mode, amount) in [("wrap", (|c| c & 31) as fn(u64) -> u64), ("clamp", |c| c.min(32))] {
        check(&format!("shf.l.{mode}.b32"), &["b32", "b32", "b32"], "b32", &shifts, |v| {
            let n = amount(v[2]);
            (u128::from(v[1]) << n | u128::from(v[0]) >> (32 - n)) as u64 & 0xffff_ffff
        });
        check(&format!("shf.r.{mode}.b32"), &["b32", "b32", "b32"], "b32", &shifts, |v| {
            let n = amount(v[2]);
            (u128::from(v[1]) << (32 - n) | u128::from(v[0]) >> n) as u64 & 0xffff_ffff
        });
    }
    let three = combinations(&V32, 3);
    for (table, f) in [
        (0x80, (|a, b, c| a & b & c) as fn(u64, u64, u64) -> u64),
        (0xfe, |a, b, c| a | b | c),
        (0x96, |a, b, c| a ^ b ^ c),
        (0xe8, |a, b, c| a & b | a & c | b & c),
        (0xca, |a, b, c| a & b | !a & c),
        (0x6a, |a, b, c| (a & b) ^ c),
        (0x01, |a, b, c| !(a | b | c)),
    ] {
        check(&format!("lop3.b32 %d, %a0, %a1, %a2, {table};"), &["b32", "b32", "b32"], "b32", &three, |v| {
            f(v[0], v[1], v[2]) & 0xffff_ffff
        });
    }
}

#[test]
fn comparisons_and_selections() {
    type F = fn(i128, i128) -> bool;
    let all: [(&str, F); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for bits in [16, 32, 64] {
        let (_, two, _) = types(bits);
        let inputs = combinations(values(bits), 2);
        for signed in [false, true] {
            for (op, f) in all {
                check(&format!("setp.{op}.{}{bits}", if signed { 's' } else { 'u' }), two, "pred", &inputs, |v| {
                    u64::from(f(value(v[0], bits, signed), value(v[1], bits, signed)))
                });
            }
        }
        for (op, f) in &all[..2] {
            check(&format!("setp.{op}.b{bits}"), two, "pred", &inputs, |v| u64::from(f(v[0].into(), v[1].into())));
        }
    }
    for (op, f) in [("lo", all[2].1), ("ls", all[3].1), ("hi", all[4].1), ("hs", all[5].1)] {
        check(&format!("setp.{op}.u32"), &["b32", "b32"], "pred", &combinations(&V32, 2), |v| {
            u64::from(f(v[0].into(), v[1].into()))
        });
    }
    let inputs: Vec<Vec<u64>> =
        combinations(&V32[..4], 2).into_iter().flat_map(|v| [0, 1].map(|c| vec![v[0], v[1], c])).collect();
    let ins = &["b32", "b32", "pred"];
    check("setp.lt.and.u32 %d, %a0, %a1, %a2;", ins, "pred", &inputs, |v| u64::from(v[0] < v[1]) & v[2]);
    check("setp.lt.or.u32 %d, %a0, %a1, !%a2;", ins, "pred", &inputs, |v| u64::from(v[0] < v[1]) | (v[2] ^ 1));
    check("setp.lt.xor.u32 %d, %a0, %a1, %a2;", ins, "pred", &inputs, |v| u64::from(v[0] < v[1]) ^ v[2]);
    // The second result is that of the opposite comparison.
    check("setp.lt.u32 %p1|%d, %a0, %a1;", ins, "pred", &inputs, |v| u64::from(v[0] >= v[1]));
    check("setp.lt.and.u32 %p1|%d, %a0, %a1, %a2;", ins, "pred", &inputs, |v| u64::from(v[0] >= v[1]) & v[2]);
    check("selp.b32", ins, "b32", &inputs, |v| if v[2] == 1 { v[0] } else { v[1] });
    check("selp.b32 %d, %a0, 77, !%a2;", ins, "b32", &inputs, |v| if v[2] == 1 { 77 } else { v[0] });
    check("selp.b64", &["b64", "b64", "pred"], "b64", &inputs, |v| if v[2] == 1 { v[0] } else { v[1] });
    check("selp.b16", &["b16", "b16", "pred"], "b16", &inputs, |v| if v[2] == 1 { v[0] } else { v[1] });
    let inputs = combinations(&V32, 3);
    check("slct.u32.s32", &["b32", "b32", "b32"], "b32", &inputs, |v| if v[2] < 1 << 31 { v[0] } else { v[1] });
    check("set.lt.u32.s32", &["b32", "b32"], "b32", &combinations(&V32, 2), |v| {
        if value(v[0], 32, true) < value(v[1], 32, true) { 0xffff_ffff } else { 0 }
    });
    check("set.lt.f32.u32", &["b32", "b32"], "b32", &combinations(&V32, 2), |v| {
        if v[0] < v[1] { u64::from(1.0_f32.to_bits()) } else { 0 }
    });
}

#[test]
fn moves() {
    check("mov.b64 %d, {%a0, %a1};", &["b32", "b32"], "b64", &combinations(&V32, 2), |v| v[0] | v[1] << 32);
    check("mov.b32 %d, {%a0, %a1};", &["b16", "b16"], "b32", &combinations(&V16, 2), |v| v[0] | v[1] << 16);
    check("mov.b32 %d, {0, %a0};", &["b16"], "b32", &combinations(&V16, 1), |v| v[0] << 16);
    check("mov.b64 %d, {%a0, %a1, %a1, %a0};", &["b16", "b16"], "b64", &combinations(&V16, 2), |v| {
        v[0] | v[1] << 16 | v[1] << 32 | v[0] << 48
    });
    check("mov.b64 {%r1, %d}, %a0;", &["b64"], "b32", &combinations(&V64, 1), |v| v[0] >> 32);
    check("mov.b64 {%d, _}, %a0;", &["b64"], "b32", &combinations(&V64, 1), |v| v[0] & 0xffff_ffff);
    check("mov.b32 {%h1, %d}, %a0;", &["b32"], "b16", &combinations(&V32, 1), |v| v[0] >> 16);
    check("mov.u32 %d, -7;", &["b32"], "b32", &combinations(&V32, 1), |_| 0xffff_fff9);
    check("mov.b32 %d, 0b101;", &["b32"], "b32", &combinations(&V32, 1), |_| 5);
    check("mov.b32 %d, 0X1fU;", &["b32"], "b32", &combinations(&V32, 1), |_| 31);
    check("mov.b32 %d, 017;", &["b32"], "b32", &combinations(&V32, 1), |_| 15);
}
