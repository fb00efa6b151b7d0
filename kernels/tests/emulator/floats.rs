//! Floats: exact results where the ISA fixes them, its error bounds where it does not.

use half::{bf16, f16};

use super::harness::{Case, Random, check, combinations, run};

const NAN: u64 = 0x7fff_ffff;
/// Zeros, subnormals, ones, extremes, infinities, NaNs of both signs.
const SPECIAL: [u32; 18] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3eaa_aaab,
    0x4049_0fdb,
    0xc2f6_e979,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xff81_2345,
];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn bits(x: f32) -> u64 {
    if x.is_nan() { NAN } else { u64::from(x.to_bits()) }
}

fn specials() -> Vec<u64> {
    SPECIAL.map(u64::from).to_vec()
}

/// Finite values whose sums and products are exact in `f64`.
fn moderate(n: usize) -> Vec<u64> {
    let mut random = Random(n as u64);
    (0..n).map(|i| u64::from((random.signed() * [1.0, 1e-3, 300.0][i % 3]).to_bits())).collect()
}

/// Rounds in a direction by stepping from the nearest value.
fn directed(x: f64, mode: &str) -> u64 {
    let near = x as f32;
    let (below, above) = match f64::from(near) {
        n if n < x => (near, near.next_up()),
        n if n > x => (near.next_down(), near),
        _ => return bits(near),
    };
    bits(match mode {
        "rn" => near,
        "rm" => below,
        "rp" => above,
        _ if x > 0.0 => below,
        _ => above,
    })
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

#[test]
fn arithmetic() {
    let two = combinations(&[specials(), moderate(6)].concat(), 2);
    let ins = &["f32", "f32"];
    for (op, f32_op) in [
        ("add", (|a, b| a + b) as fn(f32, f32) -> f32),
        ("sub", |a, b| a - b),
        ("mul", |a, b| a * b),
        ("div", |a, b| a / b),
    ] {
        let rn = |op| if op == "div" { ".rn" } else { "" };
        check(&format!("{op}{}.f32", rn(op)), ins, "f32", &two, |v| bits(f32_op(f(v[0]), f(v[1]))));
        check(&format!("{op}.rn.f32"), ins, "f32", &two, |v| bits(f32_op(f(v[0]), f(v[1]))));
        check(&format!("{op}{}.ftz.f32", rn(op)), ins, "f32", &two, |v| {
            bits(flush(f32_op(flush(f(v[0])), flush(f(v[1])))))
        });
        if op != "div" {
            check(&format!("{op}.sat.f32"), ins, "f32", &two, |v| {
                let x = f32_op(f(v[0]), f(v[1]));
                bits(if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) })
            });
        }
    }
    let plain = combinations(&moderate(12), 2);
    for mode in ["rn", "rz", "rm", "rp"] {
        let wide = |v: &[u64]| (f64::from(f(v[0])), f64::from(f(v[1])));
        check(&format!("add.{mode}.f32"), ins, "f32", &plain, |v| directed(wide(v).0 + wide(v).1, mode));
        check(&format!("sub.{mode}.f32"), ins, "f32", &plain, |v| directed(wide(v).0 - wide(v).1, mode));
        check(&format!("mul.{mode}.f32"), ins, "f32", &plain, |v| directed(wide(v).0 * wide(v).1, mode));
        // The quotient of two f32 is never so near a f32 that f64 could not tell the side.
        check(&format!("div.{mode}.f32"), ins, "f32", &plain, |v| directed(wide(v).0 / wide(v).1, mode));
        check(&format!("fma.{mode}.f32"), &["f32", "f32", "f32"], "f32", &combinations(&moderate(6), 3), |v| {
            // Scaled so that the sum fits 53 bits or its rounding error cannot matter for a directed rounding.
            let (p, c) = (wide(v).0 * wide(v).1, f64::from(f(v[2])));
            let sum = p + c;
            let error = (p - (sum - c)) + (c - (sum - (sum - c)));
            let nudged = if error > 0.0 { sum.next_up() } else { sum.next_down() };
            directed(if error == 0.0 { sum } else { nudged }, mode)
        });
    }
    check("fma.rn.f32", &["f32", "f32", "f32"], "f32", &combinations(&specials(), 3), |v| {
        bits(f(v[0]).mul_add(f(v[1]), f(v[2])))
    });
    check("fma.rn.ftz.f32", &["f32", "f32", "f32"], "f32", &combinations(&specials()[..10], 3), |v| {
        bits(flush(flush(f(v[0])).mul_add(flush(f(v[1])), flush(f(v[2])))))
    });
}

#[test]
fn unary_and_extremes() {
    let one = combinations(&[specials(), moderate(40)].concat(), 1);
    let ins = &["f32"];
    check("abs.f32", ins, "f32", &one, |v| v[0] & 0x7fff_ffff);
    check("neg.f32", ins, "f32", &one, |v| v[0] ^ 0x8000_0000);
    check("sqrt.rn.f32", ins, "f32", &one, |v| bits(f(v[0]).sqrt()));
    check("rcp.rn.f32", ins, "f32", &one, |v| bits(1.0 / f(v[0])));
    let positive: Vec<Vec<u64>> = moderate(40).into_iter().map(|v| vec![v & 0x7fff_ffff]).collect();
    for mode in ["rz", "rm", "rp"] {
        check(&format!("sqrt.{mode}.f32"), ins, "f32", &positive, |v| directed(f64::from(f(v[0])).sqrt(), mode));
        check(&format!("rcp.{mode}.f32"), ins, "f32", &positive, |v| directed(1.0 / f64::from(f(v[0])), mode));
    }
    let two = combinations(&specials(), 2);
    let ins = &["f32", "f32"];
    for (op, max) in [("min", false), ("max", true)] {
        let pick = move |a: f32, b: f32| {
            // -0 is below +0.
            let less = if a == b { a.is_sign_negative() } else { a < b };
            if less != max { a } else { b }
        };
        check(&format!("{op}.f32"), ins, "f32", &two, |v| match (f(v[0]), f(v[1])) {
            (a, b) if a.is_nan() && b.is_nan() => NAN,
            (a, b) if a.is_nan() => bits(b),
            (a, b) if b.is_nan() => bits(a),
            (a, b) => bits(pick(a, b)),
        });
        check(&format!("{op}.NaN.f32"), ins, "f32", &two, |v| match (f(v[0]), f(v[1])) {
            (a, b) if a.is_nan() || b.is_nan() => NAN,
            (a, b) => bits(pick(a, b)),
        });
    }
    // The sign of the first, the magnitude of the second.
    check("copysign.f32", ins, "f32", &two, |v| v[0] & 0x8000_0000 | v[1] & 0x7fff_ffff);
}

#[test]
fn properties() {
    type F = fn(f64, bool) -> bool;
    // The value, and whether it is a subnormal of its type.
    let all: [(&str, F); 6] = [
        ("finite", |x, _| x.abs() < f64::INFINITY),
        ("infinite", |x, _| x.abs() == f64::INFINITY),
        ("number", |x, _| !x.is_nan()),
        ("notanumber", |x, _| x.is_nan()),
        ("normal", |x, small| x != 0.0 && x.abs() < f64::INFINITY && !small),
        ("subnormal", |_, small| small),
    ];
    for (property, holds) in all {
        check(&format!("testp.{property}.f32"), &["f32"], "pred", &combinations(&specials(), 1), |v| {
            let small = v[0] >> 23 & 0xff == 0 && v[0] & 0x7f_ffff != 0;
            u64::from(holds(f64::from(f(v[0])), small))
        });
        let values = [doubles(), vec![5e-324_f64.to_bits(), f64::MIN_POSITIVE.to_bits()]].concat();
        check(&format!("testp.{property}.f64"), &["f64"], "pred", &combinations(&values, 1), |v| {
            u64::from(holds(f64::from_bits(v[0]), v[0] == 1))
        });
    }
}

#[test]
fn comparisons() {
    let two = combinations(&specials(), 2);
    type F = fn(f32, f32) -> bool;
    let ordered: [(&str, F); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (op, compare) in ordered {
        let nan = |v: &[u64]| f(v[0]).is_nan() || f(v[1]).is_nan();
        check(&format!("setp.{op}.f32"), &["f32", "f32"], "pred", &two, |v| u64::from(compare(f(v[0]), f(v[1]))));
        check(&format!("setp.{op}u.f32"), &["f32", "f32"], "pred", &two, |v| {
            u64::from(compare(f(v[0]), f(v[1])) || nan(v))
        });
        check(&format!("setp.{op}.ftz.f32"), &["f32", "f32"], "pred", &two, |v| {
            u64::from(compare(flush(f(v[0])), flush(f(v[1]))))
        });
        check(&format!("setp.{op}.f64"), &["f64", "f64"], "pred", &combinations(&doubles(), 2), |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            u64::from(compare(a as f32, b as f32))
        });
        check(&format!("setp.{op}.f16"), &["f16", "f16"], "pred", &combinations(&HALVES, 2), |v| {
            u64::from(compare(half(v[0]), half(v[1])))
        });
    }
    check("setp.num.f32", &["f32", "f32"], "pred", &two, |v| u64::from(!f(v[0]).is_nan() && !f(v[1]).is_nan()));
    check("setp.nan.f32", &["f32", "f32"], "pred", &two, |v| u64::from(f(v[0]).is_nan() || f(v[1]).is_nan()));
    let pairs: Vec<Vec<u64>> =
        combinations(&HALVES, 2).into_iter().map(|v| vec![v[0] | v[1] << 16, 0x3c00_bc00]).collect();
    check("setp.lt.f16x2 %d|%p1, %a0, %a1;", &["b32", "b32"], "pred", &pairs, |v| u64::from(half(v[0]) < -1.0));
    check("setp.lt.f16x2 %p1|%d, %a0, %a1;", &["b32", "b32"], "pred", &pairs, |v| u64::from(half(v[0] >> 16) < 1.0));
    check("set.eq.f16.f16", &["f16", "f16"], "f16", &combinations(&HALVES, 2), |v| {
        if half(v[0]) == half(v[1]) { 0x3c00 } else { 0 }
    });
}

/// Values that stay apart in `f32`.
fn doubles() -> Vec<u64> {
    [0.0, -0.0, 1.0, -1.0, 1.5, 3e10, f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(f64::to_bits).to_vec()
}

#[test]
fn double_precision() {
    let bits = |x: f64| if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() };
    let d = f64::from_bits;
    let values = [doubles(), vec![(1.0_f64 / 3.0).to_bits(), 5e-324_f64.to_bits(), 1e308_f64.to_bits()]].concat();
    let (one, two, three) = (combinations(&values, 1), combinations(&values, 2), combinations(&values, 3));
    check("add.f64", &["f64", "f64"], "f64", &two, |v| bits(d(v[0]) + d(v[1])));
    check("sub.rn.f64", &["f64", "f64"], "f64", &two, |v| bits(d(v[0]) - d(v[1])));
    check("mul.f64", &["f64", "f64"], "f64", &two, |v| bits(d(v[0]) * d(v[1])));
    check("div.rn.f64", &["f64", "f64"], "f64", &two, |v| bits(d(v[0]) / d(v[1])));
    check("fma.rn.f64", &["f64", "f64", "f64"], "f64", &three, |v| bits(d(v[0]).mul_add(d(v[1]), d(v[2]))));
    check("sqrt.rn.f64", &["f64"], "f64", &one, |v| bits(d(v[0]).sqrt()));
    check("rcp.rn.f64", &["f64"], "f64", &one, |v| bits(1.0 / d(v[0])));
    check("neg.f64", &["f64"], "f64", &one, |v| v[0] ^ 1 << 63);
    check("abs.f64", &["f64"], "f64", &one, |v| v[0] & !(1 << 63));
    check("max.f64", &["f64", "f64"], "f64", &two, |v| match (d(v[0]), d(v[1])) {
        (a, b) if a == 0.0 && b == 0.0 => v[0] & v[1],
        (a, b) => bits(a.max(b)),
    });
    check("min.f64", &["f64", "f64"], "f64", &two, |v| match (d(v[0]), d(v[1])) {
        (a, b) if a == 0.0 && b == 0.0 => v[0] | v[1],
        (a, b) => bits(a.min(b)),
    });
}

/// What `wanted` may be missed by.
#[derive(Clone, Copy)]
enum Bound {
    Ulps(f64),
    Relative(f64),
    Absolute(f64),
}

#[test]
fn approximations() {
    let mut random = Random(7);
    let mut inputs = specials();
    for scale in [1.0, 0.01, 3.0, 20.0, 120.0] {
        inputs.extend((0..400).map(|_| u64::from((random.signed() * scale).to_bits())));
    }
    let log_bound = |x: f64| {
        if (0.5..2.0).contains(&x) { Bound::Absolute(2.0_f64.powi(-22)) } else { Bound::Relative(2.0_f64.powi(-22)) }
    };
    type F = fn(f64) -> f64;
    type Allowed = fn(f64) -> Bound;
    let ops: [(&str, F, Allowed); 9] = [
        ("ex2.approx.f32", f64::exp2, |_| Bound::Ulps(2.0)),
        ("ex2.approx.ftz.f32", f64::exp2, |_| Bound::Ulps(2.0)),
        ("lg2.approx.f32", f64::log2, log_bound),
        ("rcp.approx.f32", |x| 1.0 / x, |_| Bound::Ulps(1.0)),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), |_| Bound::Relative(2.0_f64.powf(-22.9))),
        ("sqrt.approx.f32", f64::sqrt, |_| Bound::Relative(2.0_f64.powi(-23))),
        ("sin.approx.f32", f64::sin, |_| Bound::Absolute(2.0_f64.powf(-20.5))),
        ("cos.approx.f32", f64::cos, |_| Bound::Absolute(2.0_f64.powf(-20.5))),
        ("tanh.approx.f32", f64::tanh, |_| Bound::Relative(2.0_f64.powi(-11))),
    ];
    for (op, exact, bound) in ops {
        let case = Case { body: format!("{op} %d, %a0;"), inputs: &["f32"], output: "f32" };
        let all: Vec<Vec<u64>> = inputs.iter().map(|&x| vec![x]).collect();
        for (input, found) in inputs.iter().zip(run(&case, &all)) {
            let ftz = op.contains(".ftz");
            let x = if ftz { flush(f(*input)) } else { f(*input) };
            let (wanted, found) = (exact(f64::from(x)), f(found));
            let nearest = if ftz { flush(wanted as f32) } else { wanted as f32 };
            if wanted.is_nan() || nearest.is_infinite() || nearest == 0.0 {
                assert_eq!(bits(found), bits(nearest), "{op} of {x}");
                continue;
            }
            let ulp = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
            let allowed = match bound(f64::from(x)) {
                Bound::Ulps(n) => n * ulp,
                Bound::Relative(r) => r * wanted.abs(),
                Bound::Absolute(a) => a,
            };
            // A subnormal result cannot be nearer than half its step.
            let allowed = allowed.max(if nearest.is_subnormal() { 0.5 * ulp } else { 0.0 });
            assert!((f64::from(found) - wanted).abs() <= allowed, "{op} of {x}: {found}, wanted {wanted}");
        }
    }
    let two = combinations(&moderate(20), 2);
    for op in ["div.approx.f32", "div.full.f32"] {
        let case = Case { body: format!("{op} %d, %a0, %a1;"), inputs: &["f32", "f32"], output: "f32" };
        for (v, found) in two.iter().zip(run(&case, &two)) {
            let wanted = f64::from(f(v[0])) / f64::from(f(v[1]));
            assert!((f64::from(f(found)) - wanted).abs() <= 2.0 * wanted.abs() * 2.0_f64.powi(-23), "{op} {v:x?}");
        }
    }
}

const HALVES: [u64; 14] =
    [0, 0x8000, 1, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3555, 0x4248, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00];
const BRAINS: [u64; 13] =
    [0, 0x8000, 1, 0x0080, 0x3f80, 0xbf80, 0x3eab, 0x4049, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0];

fn half(x: u64) -> f32 {
    f16::from_bits(x as u16).to_f32()
}

fn brain(x: u64) -> f32 {
    bf16::from_bits(x as u16).to_f32()
}

/// Of one half; `f64` holds every sum and product here, or errs far below what could matter.
fn small(ty: &str, x: f64) -> u64 {
    if x.is_nan() {
        0x7fff
    } else if ty == "f16" {
        u64::from(f16::from_f64(x).to_bits())
    } else {
        u64::from(bf16::from_f64(x).to_bits())
    }
}

#[test]
fn halves() {
    for (ty, values, widen) in [("f16", &HALVES[..], half as fn(u64) -> f32), ("bf16", &BRAINS[..], brain)] {
        let w = |x: u64| f64::from(widen(x & 0xffff));
        type F = fn(f64, f64, f64) -> f64;
        let relu = |x: f64| if x <= 0.0 { 0.0 } else { x };
        let mut ops: Vec<(String, F)> = vec![(format!("fma.rn.{ty}"), |a, b, c| a.mul_add(b, c))];
        if ty == "f16" {
            ops.push((format!("add.{ty}"), |a, b, _| a + b));
            ops.push((format!("sub.{ty}"), |a, b, _| a - b));
            ops.push((format!("mul.{ty}"), |a, b, _| a * b));
        }
        for (op, exact) in ops {
            let n = if op.starts_with("fma") { 3 } else { 2 };
            let inputs = combinations(values, n);
            let c = |v: &[u64]| v.get(2).copied().unwrap_or(0);
            let ins: &'static [&'static str] = if n == 3 { &["b16", "b16", "b16"] } else { &["b16", "b16"] };
            check(&op, ins, "b16", &inputs, |v| small(ty, exact(w(v[0]), w(v[1]), w(c(v)))));
            // Pairs: the same values in the lower half, turned around in the upper.
            let pairs: Vec<Vec<u64>> = inputs
                .iter()
                .zip(inputs.iter().rev())
                .map(|(low, high)| low.iter().zip(high).map(|(l, h)| l | h << 16).collect())
                .collect();
            let ins: &'static [&'static str] = if n == 3 { &["b32", "b32", "b32"] } else { &["b32", "b32"] };
            check(&format!("{op}x2"), ins, "b32", &pairs, |v| {
                let part = |s: u32| small(ty, exact(w(v[0] >> s), w(v[1] >> s), w(c(v) >> s)));
                part(0) | part(16) << 16
            });
        }
        check(&format!("fma.rn.relu.{ty}"), &["b16", "b16", "b16"], "b16", &combinations(values, 3), |v| {
            small(ty, relu(w(v[0]).mul_add(w(v[1]), w(v[2]))))
        });
        for (op, max) in [("min", false), ("max", true)] {
            let two = combinations(values, 2);
            check(&format!("{op}.{ty}"), &["b16", "b16"], "b16", &two, |v| {
                let (a, b) = (w(v[0]), w(v[1]));
                let less = if a == b { a.is_sign_negative() } else { a < b };
                match (a.is_nan(), b.is_nan()) {
                    (true, true) => 0x7fff,
                    (true, false) => v[1],
                    (false, true) => v[0],
                    _ => {
                        if less != max {
                            v[0]
                        } else {
                            v[1]
                        }
                    }
                }
            });
            check(&format!("{op}.NaN.{ty}"), &["b16", "b16"], "b16", &two, |v| {
                let (a, b) = (w(v[0]), w(v[1]));
                let less = if a == b { a.is_sign_negative() } else { a < b };
                if a.is_nan() || b.is_nan() {
                    0x7fff
                } else if less != max {
                    v[0]
                } else {
                    v[1]
                }
            });
        }
        check(&format!("neg.{ty}"), &["b16"], "b16", &combinations(values, 1), |v| v[0] ^ 0x8000);
        check(&format!("abs.{ty}x2"), &["b32"], "b32", &combinations(&[0x8001_ffff, 0x3c00_bc00], 1), |v| {
            v[0] & 0x7fff_7fff
        });
    }
    check("ex2.approx.f16", &["b16"], "b16", &combinations(&HALVES, 1), |v| small("f16", f64::from(half(v[0])).exp2()));
    check("ex2.approx.ftz.bf16", &["b16"], "b16", &combinations(&[0x3f80, 0xc040, 0x4110, 0xff80], 1), |v| {
        small("bf16", f64::from(brain(v[0])).exp2())
    });
    check("tanh.approx.f16x2", &["b32"], "b32", &combinations(&[0x3c00_bc00, 0x4400_0000], 1), |v| {
        let part = |s: u32| small("f16", f64::from(half(v[0] >> s & 0xffff)).tanh());
        part(0) | part(16) << 16
    });
}
