//! Loads and stores of every width and space, atomics, `cp.async`.

use oc_kernels::emulator::FaultKind;

use super::harness::{kernel_text, run_kernel, run_words};

const DATA: [u32; 8] = [0x8281_0100, 0xf0e0_9080, 1, 2, 0xdead_beef, 0x7fff_8000, 3, 4];

fn run(declarations: &str, body: &str, out: usize) -> Vec<u32> {
    run_words(declarations, body, 1, &DATA, out)
}

#[test]
fn widths_and_signs() {
    let bytes: &[u8] = bytemuck::cast_slice(&DATA);
    for (ty, size, signed) in [("u8", 1, false), ("s8", 1, true), ("b8", 1, false), ("u16", 2, false), ("s16", 2, true)]
    {
        for offset in [0, 2, 4, 6] {
            let found = run("", &format!("ld.global.{ty} %r1, [%in+{offset}];\nst.global.u32 [%out], %r1;"), 1);
            let raw = bytes[offset..][..size].iter().rev().fold(0_u32, |x, &b| x << 8 | u32::from(b));
            let wanted = match (size, signed) {
                (1, true) => raw as u8 as i8 as u32,
                (2, true) => raw as u16 as i16 as u32,
                _ => raw,
            };
            assert_eq!(found, [wanted], "{ty} at {offset}");
            let found = run("", &format!("ld.global.{ty} %rd1, [%in+{offset}];\nst.global.u64 [%out], %rd1;"), 2);
            assert_eq!(found, [wanted, if signed && wanted >> 31 == 1 { u32::MAX } else { 0 }], "{ty} to 64 bits");
        }
    }
    let found = run("", "ld.global.s32 %rd1, [%in];\nst.global.u64 [%out], %rd1;", 2);
    assert_eq!(found, [DATA[0], u32::MAX]);
    // A signed byte in a register of 16 bits, used as one.
    let found = run("", "ld.global.s8 %h1, [%in+2];\ncvt.s32.s16 %r1, %h1;\nst.global.u32 [%out], %r1;", 1);
    assert_eq!(found, [0xffff_ff81]);
}

#[test]
fn vectors() {
    assert_eq!(
        run("", "ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%in+16];\nst.global.v4.u32 [%out], {%r4,%r3,%r2,%r1};", 4),
        [4, 3, DATA[5], DATA[4]]
    );
    assert_eq!(
        run("", "ld.global.nc.v2.u64 {%rd1,%rd2}, [%in];\nst.global.v2.u64 [%out], {%rd2,%rd1};", 4),
        [1, 2, DATA[0], DATA[1]]
    );
    assert_eq!(
        run("", "ld.global.v2.u16 {%h1,%h2}, [%in];\nst.global.v2.u16 [%out], {%h2,%h1};", 1),
        [DATA[0].rotate_left(16)]
    );
    assert_eq!(
        run("", "ld.global.v4.u8 {%h1,%h2,%h3,%h4}, [%in];\nst.global.v4.u8 [%out], {%h4,%h3,%h2,%h1};", 1),
        [DATA[0].swap_bytes()]
    );
    assert_eq!(
        run("", "ld.global.v4.u16 {%h1,_,_,%h4}, [%in];\nst.global.v2.u16 [%out], {%h1,%h4};", 1),
        [DATA[0] & 0xffff | DATA[1] & 0xffff_0000]
    );
    let found = run(
        "",
        "ld.global.L1::no_allocate.L2::128B.v2.f32 {%f1,%f2}, [%in+8];\nst.global.v2.f32 [%out], {%f2,%f1};",
        2,
    );
    assert_eq!(found, [2, 1]);
    assert_eq!(
        run("", "mov.u16 %h1, 0xabcd;\nst.global.u16 [%out+2], %h1;\nst.global.u8 [%out], %h1;", 1),
        [0xabcd_00cd]
    );
}

#[test]
fn spaces_and_generic_addresses() {
    // One value through shared, local and global memory by generic addresses.
    let body = "mov.u64 %rd1, tile;\ncvta.shared.u64 %rd2, %rd1;\nmov.u64 %rd3, depot;\ncvta.local.u64 %rd4, %rd3;\n\
        ld.u32 %r1, [%in];\nst.u32 [%rd2+4], %r1;\nld.shared.u32 %r2, [tile+4];\nadd.s32 %r2, %r2, 1;\n\
        st.u32 [%rd4+8], %r2;\nld.local.u32 %r3, [depot+8];\nst.u32 [%out], %r3;\n\
        cvta.to.shared.u64 %rd5, %rd2;\nsetp.eq.u64 %p1, %rd5, %rd1;\nselp.b32 %r4, 1, 0, %p1;\nst.u32 [%out+4], %r4;\n\
        isspacep.shared %p2, %rd2;\nisspacep.local %p3, %rd4;\nisspacep.global %p4, %out;\nisspacep.global %p5, %rd2;\n\
        and.pred %p2, %p2, %p3;\nand.pred %p2, %p2, %p4;\nand.pred %p2, %p2, !%p5;\nselp.b32 %r5, 1, 0, %p2;\n\
        st.u32 [%out+8], %r5;\ncvta.to.global.u64 %rd6, %out;\nst.global.u32 [%rd6+12], %r5;";
    let found = run(".shared .align 8 .b8 tile[64];\n.local .align 8 .b8 depot[64];", body, 4);
    assert_eq!(found, [DATA[0] + 1, 1, 1, 1]);
}

#[test]
fn module_variables() {
    let text = kernel_text("", "ld.const.u16 %r1, [table+2];\nmov.u64 %rd1, numbers;\nld.global.f32 %f1, [%rd1+4];\n\
        st.global.u32 [%out], %r1;\nst.global.f32 [%out+4], %f1;\nld.global.u64 %rd2, [wide];\nst.global.u64 [%out+8], %rd2;")
        .replace(".visible", ".const .align 2 .u16 table[3] = {7, 8, 9};\n.global .align 4 .f32 numbers[2] = {0f3F800000, 0f40000000};\n\
        .global .align 8 .u64 wide = -2;\n.visible");
    let out: Vec<u32> = bytemuck::pod_collect_to_vec(&run_kernel(text, 1, 0, &[0; 4], 16).unwrap());
    assert_eq!(out, [8, 2.0_f32.to_bits(), -2_i32 as u32, u32::MAX]);
}

#[test]
fn local_memory_that_nothing_wrote_is_poison() {
    // Copied, it harms nobody; stored where others see it, it is a fault.
    let declarations = ".local .align 4 .b8 depot[8];";
    let copied = "ld.local.u32 %r1, [depot];\nst.local.u32 [depot+4], %r1;\nst.global.u32 [%out], 5;";
    assert_eq!(run(declarations, copied, 1), [5]);
    let fault = run_kernel(
        kernel_text(declarations, "ld.local.u32 %r1, [depot];\nst.global.u32 [%out], %r1;"),
        1,
        0,
        &[0; 4],
        4,
    );
    assert_eq!(fault.unwrap_err().kind, FaultKind::UninitialisedRegister);
}

#[test]
fn atomics() {
    type F = fn(u64, u64) -> u64;
    let ops: [(&str, u64, F); 16] = [
        ("add.u32", 5, |a, b| (a + b) & 0xffff_ffff),
        ("add.s32", 5, |a, b| (a + b) & 0xffff_ffff),
        ("add.u64", u64::MAX - 3, |a, b| a.wrapping_add(b)),
        ("min.u32", 40, u64::min),
        ("max.u32", 3, u64::max),
        ("min.s32", 0xffff_fff0, |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max.s32", 0xffff_fff0, |a, b| (a as i32).max(b as i32) as u32 as u64),
        ("min.u64", 1 << 40, u64::min),
        ("max.s64", u64::MAX, |a, b| (a as i64).max(b as i64) as u64),
        ("and.b32", 0xff, |a, b| a & b),
        ("or.b32", 0, |a, b| a | b),
        ("xor.b64", 0, |a, b| a ^ b),
        ("exch.b32", 9, |_, b| b),
        ("inc.u32", 2, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", 2, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("add.f32", 0x3f80_0000, |a, b| (f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits().into()),
    ];
    for (op, start, f) in ops {
        for space in ["global", "shared"] {
            let wide = op.ends_with("64");
            let (r, bits) = if wide { ("%rd", "u64") } else { ("%r", "u32") };
            // Lanes take their turns in order; each stores what it found.
            let body = format!(
                "mov.u64 %rd9, {};\nmov.u64 %rd1, {start};\ncvt.u32.u64 %r1, %rd1;\nsetp.eq.u32 %p1, %tid, 0;\n\
                 @%p1 st.{space}.{bits} [%rd9], {r}1;\nbar.sync 0;\nadd.s32 %r2, %tid, 3;\ncvt.u64.u32 %rd2, %r2;\n{}\
                 atom.{space}.{op} {r}3, [%rd9], {r}2;\nmad.wide.u32 %rd4, %tid, 8, %out;\nst.global.{bits} [%rd4+8], {r}3;",
                if space == "global" { "%out" } else { "cell" },
                if op == "add.f32" { "cvt.rn.f32.u32 %f1, %r2;\nmov.b32 %r2, %f1;\n" } else { "" },
            );
            let (declarations, body) = if op == "add.f32" {
                // Floats live in registers of their own.
                let body = body.replace(
                    &format!("atom.{space}.add.f32 %r3, [%rd9], %r2"),
                    &format!("mov.b32 %f2, %r2;\natom.{space}.add.f32 %f3, [%rd9], %f2;\nmov.b32 %r3, %f3"),
                );
                (".shared .align 8 .b8 cell[8];", body)
            } else {
                (".shared .align 8 .b8 cell[8];", body)
            };
            let found = run_words(declarations, &body, 32, &[0], 66);
            let found: Vec<u64> =
                found.as_chunks::<2>().0.iter().map(|&[a, b]| u64::from(b) << 32 | u64::from(a)).collect();
            let mut now = start;
            for lane in 0..32_u64 {
                assert_eq!(found[lane as usize + 1], now, "{op} {space} lane {lane}");
                let operand = if op == "add.f32" { u64::from(((lane + 3) as f32).to_bits()) } else { lane + 3 };
                now = f(now, operand);
            }
        }
    }
    // Compare and swap: only who finds what it expects changes it. `red` gives nothing back.
    let body = "atom.global.cas.b32 %r1, [%out], %tid, 100;\nred.global.add.u32 [%out+4], 2;\nred.global.add.u32 [%out+4], %tid;";
    assert_eq!(run_words("", body, 32, &[0], 2), [100, 64 + 31 * 16]);
    let body = "mov.b32 %r1, 0x3f803f80;\nred.global.add.noftz.bf16x2 [%out], %r1;";
    // 1, 2, … 8: exact.
    assert_eq!(run_words("", body, 8, &[0], 1), [0x4100_4100]);
}

#[test]
fn copies_arrive_at_the_wait() {
    // Four groups into four places; after each wait one more may be read.
    let copies: String = (0..4)
        .map(|i| format!("cp.async.ca.shared.global [tile+{0}], [%in+{0}], 4;\ncp.async.commit_group;\n", 4 * i))
        .collect();
    for pending in 0..5_u32 {
        for read in 0..4_u32 {
            let text = kernel_text(
                ".shared .align 16 .b8 tile[16];",
                &format!(
                    "{copies}cp.async.wait_group {pending};\nld.shared.u32 %r1, [tile+{}];\nst.global.u32 [%out], %r1;",
                    4 * read
                ),
            );
            let result = run_kernel(text, 1, 0, bytemuck::cast_slice(&DATA), 4);
            if read + pending < 4 {
                assert_eq!(result.unwrap(), DATA[read as usize].to_le_bytes());
            } else {
                assert_eq!(result.unwrap_err().kind, FaultKind::AsyncTooEarly, "wait_group {pending}, group {read}");
            }
        }
    }
    // wait_all needs no commit.
    let body = "cp.async.cg.shared.global [tile], [%in], 16;\ncp.async.wait_all;\nld.shared.u32 %r1, [tile+12];\nst.global.u32 [%out], %r1;";
    assert_eq!(run(".shared .align 16 .b8 tile[16];", body, 1), [2]);
}

#[test]
fn copies_fill_with_zeros() {
    for (bytes, level) in [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")] {
        for size in [0, 1, 3, 4, 8, 15, 16].into_iter().filter(|&size| size <= bytes) {
            let body = format!(
                "mov.u32 %r1, {size};\ncp.async.{level}.shared.global.L2::128B [tile], [%in+16], {bytes}, %r1;\n\
                 cp.async.wait_all;\nld.shared.u32 %r2, [tile+{0}];\nst.global.u32 [%out+{0}], %r2;\nld.shared.u32 %r3, [tile];\n\
                 st.global.u32 [%out], %r3;",
                bytes - 4
            );
            let found = run(".shared .align 16 .b8 tile[16];", &body, 4);
            let found: &[u8] = bytemuck::cast_slice(&found);
            let source: &[u8] = &bytemuck::cast_slice(&DATA)[16..];
            for at in (0..4).chain(bytes - 4..bytes) {
                assert_eq!(found[at], if at < size { source[at] } else { 0 }, "{size} of {bytes} bytes, byte {at}");
            }
        }
    }
    // Nothing is read where nothing is copied: the source may lie outside.
    let body = "mov.u32 %r1, 0;\ncp.async.cg.shared.global [tile], [%in+4096], 16, %r1;\ncp.async.wait_all;\n\
        ld.shared.u32 %r2, [tile];\nst.global.u32 [%out], %r2;";
    assert_eq!(run(".shared .align 16 .b8 tile[16];", body, 1), [0]);
    let body = "setp.eq.u32 %p1, %tid, 0;\ncp.async.cg.shared.global [tile], [%in], 16, %p1;\ncp.async.wait_all;\n\
        ld.shared.u32 %r2, [tile];\nst.global.u32 [%out], %r2;";
    assert_eq!(run(".shared .align 16 .b8 tile[16];", body, 1), [0]);
}
