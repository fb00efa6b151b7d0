//! `shfl`, `vote`, `match`, `redux`, `activemask`, special registers.

use super::harness::{Random, run_words};

/// One result a lane, and a second one.
fn run(body: &str, input: &[u32]) -> Vec<(u32, u32)> {
    let body = format!(
        "mad.wide.u32 %rd1, %tid, 16, %in;\nld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd1];\nmov.u32 %r11, 0;\n{body}\n\
         mad.wide.u32 %rd2, %tid, 8, %out;\nst.global.v2.u32 [%rd2], {{%r10, %r11}};"
    );
    let out = run_words("", &body, 32, input, 64);
    out.as_chunks::<2>().0.iter().map(|&[a, b]| (a, b)).collect()
}

#[test]
fn shuffles() {
    let mut random = Random(5);
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32_u32, 16, 8, 4] {
            for b in [0_u32, 1, 2, 3, 7, 16, 31] {
                // As CUDA's `__shfl_*_sync` of a width computes it.
                let segment = 32 - width;
                let c = segment << 8 | if mode == "up" { 0 } else { 31 };
                let input: Vec<u32> = (0..128).map(|_| random.next() as u32).collect();
                let found = run(
                    &format!("shfl.sync.{mode}.b32 %r10|%p1, %r1, {b}, {c}, -1;\nselp.b32 %r11, 1, 0, %p1;"),
                    &input,
                );
                for (lane, found) in (0_u32..).zip(found) {
                    // The ISA's pseudo code.
                    let (bval, cval, mask) = (b & 31, c & 31, c >> 8 & 31);
                    let max_lane = (lane & mask) | (cval & !mask);
                    let min_lane = lane & mask;
                    let (j, p) = match mode {
                        "up" => (lane as i64 - i64::from(bval), lane as i64 - i64::from(bval) >= i64::from(max_lane)),
                        "down" => (i64::from(lane + bval), lane + bval <= max_lane),
                        "bfly" => (i64::from(lane ^ bval), lane ^ bval <= max_lane),
                        _ => (i64::from(min_lane | (bval & !mask)), (min_lane | (bval & !mask)) <= max_lane),
                    };
                    let source = if p { j as usize } else { lane as usize };
                    assert_eq!(found, (input[source * 4], u32::from(p)), "{mode} {width} {b} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn shuffle_of_half_a_warp() {
    // Two groups of lanes shuffle at one place, one after the other.
    let input: Vec<u32> = (0..128).collect();
    let found = run(
        "setp.lt.u32 %p1, %tid, 16;\nselp.b32 %r5, 65535, -65536, %p1;\nmov.u32 %r10, 0;\n@%p1 bra LOW;\n\
         shfl.sync.bfly.b32 %r10, %r1, 1, 31, %r5;\nbra DONE;\nLOW:\nshfl.sync.bfly.b32 %r10, %r1, 2, 31, %r5;\nDONE:",
        &input,
    );
    for (lane, (found, _)) in (0_u32..).zip(found) {
        assert_eq!(found, 4 * (lane ^ if lane < 16 { 2 } else { 1 }));
    }
}

#[test]
fn votes() {
    for odd in [0_u32, 0xffff_ffff, 0x8000_0001, 0x0000_ff00] {
        let input: Vec<u32> = (0..32).flat_map(|lane| [odd >> lane & 1, 0, 0, 0]).collect();
        let p = "setp.ne.u32 %p1, %r1, 0;";
        let one = |op: &str| run(&format!("{p}\nvote.sync.{op}.pred %p2, %p1, -1;\nselp.b32 %r10, 1, 0, %p2;"), &input);
        let all = |x: Vec<(u32, u32)>, wanted: u32| assert!(x.iter().all(|&(found, _)| found == wanted), "{odd:#x}");
        all(one("all"), u32::from(odd == u32::MAX));
        all(one("any"), u32::from(odd != 0));
        all(one("uni"), u32::from(odd == 0 || odd == u32::MAX));
        all(run(&format!("{p}\nvote.sync.ballot.b32 %r10, %p1, -1;"), &input), odd);
        all(run(&format!("{p}\nvote.sync.ballot.b32 %r10, !%p1, -1;"), &input), !odd);
    }
    let found = run("mov.u32 %r10, 0;\nsetp.lt.u32 %p1, %tid, 5;\n@%p1 activemask.b32 %r10;", &[0; 128]);
    assert!(found.iter().enumerate().all(|(lane, &(found, _))| found == if lane < 5 { 31 } else { 0 }));
}

#[test]
fn matches_and_reductions() {
    let mut random = Random(6);
    // Few different values, some of them negative.
    let input: Vec<u32> = (0..128).map(|_| (random.next() as u32 % 5).wrapping_sub(2)).collect();
    let own: Vec<u32> = input.iter().step_by(4).copied().collect();
    for (lane, (found, _)) in run("match.any.sync.b32 %r10, %r1, -1;", &input).into_iter().enumerate() {
        let wanted = (0..32).filter(|&i| own[i] == own[lane]).fold(0, |mask, i| mask | 1_u32 << i);
        assert_eq!(found, wanted);
    }
    let all = "match.all.sync.b32 %r10|%p1, %r1, -1;\nselp.b32 %r11, 1, 0, %p1;";
    assert!(run(all, &input).iter().all(|&x| x == (0, 0)));
    assert!(run(all, &[9; 128]).iter().all(|&x| x == (u32::MAX, 1)));
    type F = fn(u32, u32) -> u32;
    let ops: [(&str, F); 8] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (op, f) in ops {
        let wanted = own.iter().copied().reduce(f).unwrap();
        let found = run(&format!("redux.sync.{op} %r10, %r1, -1;"), &input);
        assert!(found.iter().all(|&(found, _)| found == wanted), "{op}");
    }
}

#[test]
fn special_registers() {
    for (register, wanted) in [
        ("%laneid", (|lane| lane) as fn(u32) -> u32),
        ("%tid.x", |lane| lane),
        ("%tid.y", |_| 0),
        ("%ntid.x", |_| 32),
        ("%nctaid.z", |_| 1),
        ("%warpid", |_| 0),
        ("%nwarpid", |_| 1),
        ("%lanemask_eq", |lane| 1 << lane),
        ("%lanemask_lt", |lane| (1 << lane) - 1),
        ("%lanemask_le", |lane| ((1_u64 << (lane + 1)) - 1) as u32),
        ("%lanemask_gt", |lane| !(((1_u64 << (lane + 1)) - 1) as u32)),
        ("%lanemask_ge", |lane| !((1 << lane) - 1)),
    ] {
        for (lane, (found, _)) in (0..).zip(run(&format!("mov.u32 %r10, {register};"), &[0; 128])) {
            assert_eq!(found, wanted(lane), "{register} of {lane}");
        }
    }
    // The clock goes on.
    let found = run(
        "mov.u64 %rd5, %clock64;\nmov.u64 %rd6, %clock64;\nsetp.gt.u64 %p1, %rd6, %rd5;\nselp.b32 %r10, 1, 0, %p1;",
        &[0; 128],
    );
    assert!(found.iter().all(|&(found, _)| found == 1));
}
