//! `cvt`, by the value that the source stands for.

use half::{bf16, f16};

use super::harness::{Random, check, combinations};

const INTS: [u64; 14] =
    [0, 1, 2, 127, 128, 255, 0x7fff, 0x8000, 0xffff, 0x0100_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_ff80];

fn number(x: u64, bits: u32, signed: bool) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if signed && x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

fn memory(bits: u32) -> &'static str {
    match bits {
        64 => "b64",
        32 => "b32",
        _ => "b16",
    }
}

fn ins(bits: u32) -> &'static [&'static str] {
    match bits {
        64 => &["b64"],
        32 => &["b32"],
        _ => &["b16"],
    }
}

#[test]
fn integers_to_integers() {
    let mut values = INTS.to_vec();
    values.extend([u64::MAX, 1 << 63, 0x1_0000_0000, 0xffff_ffff_8000_0000]);
    for (from, from_signed) in
        [(8, true), (8, false), (16, true), (16, false), (32, true), (32, false), (64, true), (64, false)]
    {
        for (to, to_signed) in
            [(8, true), (8, false), (16, true), (16, false), (32, true), (32, false), (64, true), (64, false)]
        {
            let name = |bits: u32, signed| format!("{}{bits}", if signed { 's' } else { 'u' });
            let register = from.max(16);
            let inputs: Vec<Vec<u64>> = values.iter().map(|v| vec![v & u64::MAX >> (64 - register)]).collect();
            let (s, d) = (name(from, from_signed), name(to, to_signed));
            // A byte in a register of 16 bits is extended to it.
            let width = to.max(16);
            let extended = |x: i128| number(x as u64, to, to_signed) as u64 & u64::MAX >> (64 - width);
            check(&format!("cvt.{d}.{s}"), ins(register), memory(to), &inputs, |v| {
                extended(number(v[0], from, from_signed))
            });
            check(&format!("cvt.sat.{d}.{s}"), ins(register), memory(to), &inputs, |v| {
                let x = number(v[0], from, from_signed);
                extended(if to_signed {
                    x.clamp(-(1 << (to - 1)), (1 << (to - 1)) - 1)
                } else {
                    x.clamp(0, (1 << to) - 1)
                })
            });
        }
    }
    // Registers may be wider than the types.
    check("cvt.u32.u16 %d, %a0;", &["b32"], "b32", &combinations(&INTS, 1), |v| v[0] & 0xffff);
    check("cvt.s32.s8 %d, %a0;", &["b32"], "b32", &combinations(&INTS, 1), |v| {
        number(v[0], 8, true) as u64 & 0xffff_ffff
    });
    check("cvt.s64.s16 %d, %a0;", &["b32"], "b64", &combinations(&INTS, 1), |v| number(v[0], 16, true) as u64);
}

/// Of an integer, to a float of `f32`, stepping from the nearest.
fn int_to_f32(x: i128, mode: &str) -> u64 {
    let near = x as f32;
    let back = near as i128;
    let (below, above) = match back.cmp(&x) {
        std::cmp::Ordering::Less => (near, near.next_up()),
        std::cmp::Ordering::Greater => (near.next_down(), near),
        std::cmp::Ordering::Equal => (near, near),
    };
    u64::from(
        match mode {
            "rn" => near,
            "rm" => below,
            "rp" => above,
            _ if x > 0 => below,
            _ => above,
        }
        .to_bits(),
    )
}

#[test]
fn integers_to_floats() {
    let wide: Vec<u64> =
        [INTS.to_vec(), vec![u64::MAX, 1 << 63, (1 << 63) - 1, 0x0020_0000_0000_0001, 0x1000_0001_0000_0001]].concat();
    for (bits, values) in [(32, &INTS[..]), (64, &wide)] {
        for signed in [true, false] {
            let s = format!("{}{bits}", if signed { 's' } else { 'u' });
            for mode in ["rn", "rz", "rm", "rp"] {
                check(&format!("cvt.{mode}.f32.{s}"), ins(bits), "f32", &combinations(values, 1), |v| {
                    int_to_f32(number(v[0], bits, signed), mode)
                });
            }
            check(&format!("cvt.rn.f64.{s}"), ins(bits), "f64", &combinations(values, 1), |v| {
                (number(v[0], bits, signed) as f64).to_bits()
            });
            check(&format!("cvt.rn.f16.{s}"), ins(bits), "f16", &combinations(values, 1), |v| {
                u64::from(f16::from_f64(number(v[0], bits, signed) as f64).to_bits())
            });
        }
    }
}

fn floats() -> Vec<u64> {
    let special = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -1.5,
        -2.5,
        0.49999997,
        127.5,
        128.5,
        -129.0,
        255.5,
        256.0,
        32767.5,
        65536.0,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        -2147483904.0,
        4294967040.0,
        4294967296.0,
        9.2e18,
        -9.3e18,
        1.9e19,
        1e30,
        -1e30,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        65504.0,
        65519.0,
        65520.0,
        6e-8,
        2.9e-8,
        3e-8,
        1.0039062,
        1.0117188,
        3.39e38,
        f32::MAX,
    ];
    let mut random = Random(3);
    let more = (0..100).map(|i| random.signed() * [1.0, 1000.0, 1e-5, 1e9][i % 4]);
    special.into_iter().chain(more).map(|x| u64::from(x.to_bits())).collect()
}

fn round(x: f64, mode: &str) -> f64 {
    match mode {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        _ => x.ceil(),
    }
}

#[test]
fn floats_to_integers() {
    let inputs = combinations(&floats(), 1);
    for mode in ["rni", "rzi", "rmi", "rpi"] {
        for bits in [8, 16, 32, 64] {
            for signed in [true, false] {
                let (low, high) =
                    if signed { (-(1_i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1_i128 << bits) - 1) };
                let name = format!("{}{bits}", if signed { 's' } else { 'u' });
                // NaN is 0, but for results or sources of 64 bits.
                let convert = |x: f64, wide: bool| {
                    let width = bits.max(16);
                    let y = if x.is_nan() {
                        if wide { 1 << (bits - 1) } else { 0 }
                    } else {
                        (round(x, mode) as i128).clamp(low, high)
                    };
                    number(y as u64, bits, signed) as u64 & u64::MAX >> (64 - width)
                };
                check(&format!("cvt.{mode}.{name}.f32"), &["f32"], memory(bits), &inputs, |v| {
                    convert(f64::from(f32::from_bits(v[0] as u32)), bits == 64)
                });
                let doubles: Vec<Vec<u64>> =
                    inputs.iter().map(|v| vec![f64::from(f32::from_bits(v[0] as u32)).to_bits()]).collect();
                if bits >= 32 {
                    check(&format!("cvt.{mode}.{name}.f64"), &["f64"], memory(bits), &doubles, |v| {
                        convert(f64::from_bits(v[0]), true)
                    });
                }
            }
        }
        check(&format!("cvt.{mode}.f32.f32"), &["f32"], "f32", &inputs, |v| {
            let x = f32::from_bits(v[0] as u32);
            if x.is_nan() { 0x7fff_ffff } else { u64::from((round(f64::from(x), mode) as f32).to_bits()) }
        });
    }
    check("cvt.sat.f32.f32", &["f32"], "f32", &inputs, |v| {
        let x = f32::from_bits(v[0] as u32);
        u64::from(if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) }.to_bits())
    });
}

/// Rounds to `f16` or `bf16` in a direction, stepping from the nearest.
fn narrow(x: f64, bf: bool, mode: &str) -> u64 {
    if x.is_nan() {
        return 0x7fff;
    }
    let near = if bf { bf16::from_f64(x).to_bits() } else { f16::from_f64(x).to_bits() };
    let value = |bits: u16| if bf { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() };
    // One step towards zero where the nearest lies beyond.
    if mode == "rz" && value(near).abs() > x.abs() && x.is_finite() { u64::from(near - 1) } else { u64::from(near) }
}

#[test]
fn floats_to_floats() {
    let inputs = combinations(&floats(), 1);
    let x = |v: u64| f64::from(f32::from_bits(v as u32));
    for (ty, bf) in [("f16", false), ("bf16", true)] {
        check(&format!("cvt.rn.{ty}.f32"), &["f32"], "b16", &inputs, |v| narrow(x(v[0]), bf, "rn"));
        let relu = |x: f64| if x <= 0.0 { 0.0 } else { x };
        let pairs: Vec<Vec<u64>> = inputs.iter().zip(inputs.iter().rev()).map(|(a, b)| vec![a[0], b[0]]).collect();
        for mode in ["rn", "rz"] {
            // The first operand goes into the upper half.
            check(&format!("cvt.{mode}.{ty}x2.f32"), &["f32", "f32"], "b32", &pairs, |v| {
                narrow(x(v[0]), bf, mode) << 16 | narrow(x(v[1]), bf, mode)
            });
            check(&format!("cvt.{mode}.relu.{ty}x2.f32"), &["f32", "f32"], "b32", &pairs, |v| {
                narrow(relu(x(v[0])), bf, mode) << 16 | narrow(relu(x(v[1])), bf, mode)
            });
        }
    }
    let all: Vec<Vec<u64>> = (0..0x1_0000).step_by(7).chain([0x7c00, 0xfc00, 0x8000, 1]).map(|x| vec![x]).collect();
    let canonical = |x: f32| if x.is_nan() { 0x7fff_ffff } else { u64::from(x.to_bits()) };
    check("cvt.f32.f16", &["b16"], "f32", &all, |v| canonical(f16::from_bits(v[0] as u16).to_f32()));
    check("cvt.f32.bf16", &["b16"], "f32", &all, |v| canonical(bf16::from_bits(v[0] as u16).to_f32()));
    check("cvt.f64.f32", &["f32"], "f64", &inputs, |v| {
        if x(v[0]).is_nan() { 0x7fff_ffff_ffff_ffff } else { x(v[0]).to_bits() }
    });
    let mut random = Random(9);
    let doubles: Vec<Vec<u64>> =
        (0..200).map(|_| vec![(f64::from(random.signed()) * 1.000_000_01).to_bits()]).collect();
    check("cvt.rn.f32.f64", &["f64"], "f32", &doubles, |v| u64::from((f64::from_bits(v[0]) as f32).to_bits()));
    for mode in ["rz", "rm", "rp"] {
        check(&format!("cvt.{mode}.f32.f64"), &["f64"], "f32", &doubles, |v| {
            let x = f64::from_bits(v[0]);
            let near = x as f32;
            let (below, above) = if f64::from(near) > x { (near.next_down(), near) } else { (near, near.next_up()) };
            let exact = f64::from(near) == x;
            let out = match mode {
                _ if exact => near,
                "rm" => below,
                "rp" => above,
                _ if x > 0.0 => below,
                _ => above,
            };
            u64::from(out.to_bits())
        });
    }
    check(
        "cvt.rna.tf32.f32",
        &["f32"],
        "b32",
        &combinations(&[0x3f80_1000, 0x3f80_0fff, 0xbf80_1000, 0x3f80_3000], 1),
        |v| {
            // Half of the 13 lost bits rounds away from zero.
            (v[0] + 0x1000) & !0x1fff
        },
    );
}
