//! Branches, divergence, calls, loops, tables.

use super::harness::{kernel_text, run_kernel, run_words};

const STORE: &str = "mad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r1;";

#[test]
fn divergence_and_reconvergence() {
    // Loops of different lengths, a branch within, and all lanes together at the end.
    let body = format!(
        "mov.u32 %r1, 0;\nmov.u32 %r2, 0;\nand.b32 %r3, %tid, 7;\nLOOP:\nsetp.ge.u32 %p1, %r2, %r3;\n@%p1 bra DONE;\n\
         and.b32 %r4, %r2, 1;\nsetp.eq.u32 %p2, %r4, 0;\n@!%p2 bra ODD;\nadd.s32 %r1, %r1, 10;\nbra.uni NEXT;\nODD:\nadd.s32 %r1, %r1, 1;\n\
         NEXT:\nadd.s32 %r2, %r2, 1;\nbra LOOP;\nDONE:\nactivemask.b32 %r5;\nsetp.ne.b32 %p3, %r5, -1;\n@%p3 trap;\n{STORE}"
    );
    let found = run_words("", &body, 64, &[0], 64);
    for (i, &found) in found.iter().enumerate() {
        let n = i as u32 & 7;
        assert_eq!(found, n.div_ceil(2) * 10 + n / 2);
    }
}

#[test]
fn blocks_out_of_order() {
    // The far block stands behind the barrier in the text: lanes wait for it there.
    let body = format!(
        "setp.lt.u32 %p1, %tid, 5;\nmov.u32 %r1, 1;\n@%p1 bra FAR;\nBACK:\nbar.sync 0;\nadd.s32 %r1, %r1, 100;\n{STORE}\nret;\n\
         FAR:\nmov.u32 %r1, 2;\nbra BACK;"
    );
    let found = run_words("", &body, 40, &[0], 40);
    assert!(found.iter().enumerate().all(|(i, &x)| x == if i < 5 { 102 } else { 101 }));
}

#[test]
fn exits_and_predicates() {
    let body = format!("mov.u32 %r1, 7;\nsetp.gt.u32 %p1, %tid, 9;\n@%p1 exit;\nmov.u32 %r1, 8;\n{STORE}");
    let found = run_words("", &body, 32, &[0], 32);
    assert!(found.iter().enumerate().all(|(i, &x)| x == if i > 9 { 0 } else { 8 }));
}

#[test]
fn tables() {
    let body = format!(
        "and.b32 %r2, %tid, 3;\nTABLE: .branchtargets A, B, C, B;\nbrx.idx %r2, TABLE;\nA:\nmov.u32 %r1, 11;\nbra END;\n\
         B:\nmov.u32 %r1, 22;\nbra END;\nC:\nmov.u32 %r1, 33;\nEND:\n{STORE}"
    );
    let found = run_words("", &body, 32, &[0], 32);
    assert!(found.iter().enumerate().all(|(i, &x)| x == [11, 22, 33, 22][i % 4]));
}

#[test]
fn calls() {
    let text = kernel_text(
        "",
        "mov.u32 %r1, 0;\nsetp.lt.u32 %p1, %tid, 20;\n{\n.param .b32 p0;\n.param .b32 p1;\n.param .b32 back;\n\
         st.param.b32 [p0+0], %tid;\nst.param.b32 [p1], 3;\ncall.uni (back), twice, (p0, p1);\nld.param.b32 %r1, [back+0];\n}\n\
         {\n.param .b32 p0;\n.param .b32 p1;\n.param .b32 back;\nst.param.b32 [p0], %r1;\nst.param.b32 [p1], 1;\n\
         st.param.b32 [back], %r1;\n@%p1 call (back), twice, (p0, p1);\nld.param.b32 %r1, [back];\n}\n\
         mad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r1;",
    )
    .replace(
        ".visible",
        ".func (.param .b32 r) inner(.param .b32 x)\n{\n.reg .b32 %r<4>;\nld.param.u32 %r1, [x];\nshl.b32 %r2, %r1, 1;\n\
         st.param.b32 [r], %r2;\nret;\n}\n\
         .func (.param .b32 r) twice(.param .b32 x, .param .b32 y)\n{\n.reg .b32 %r<4>;\n.reg .pred %p<2>;\n.param .b32 a;\n.param .b32 b;\n\
         ld.param.u32 %r1, [x];\nst.param.b32 [a], %r1;\ncall (b), inner, (a);\nld.param.u32 %r2, [b];\nld.param.u32 %r3, [y];\n\
         add.s32 %r2, %r2, %r3;\nst.param.b32 [r], %r2;\nsetp.gt.u32 %p1, %r1, 10;\n@%p1 ret;\nadd.s32 %r2, %r2, 1000;\n\
         st.param.b32 [r], %r2;\nret;\n}\n.visible",
    );
    let out: Vec<u32> = bytemuck::pod_collect_to_vec(&run_kernel(text, 32, 0, &[0; 4], 128).unwrap());
    let twice = |x: u32, y: u32| 2 * x + y + if x > 10 { 0 } else { 1000 };
    for (i, found) in (0..).zip(out) {
        let first = twice(i, 3);
        assert_eq!(found, if i < 20 { twice(first, 1) } else { first }, "thread {i}");
    }
}

#[test]
fn scopes_and_labels() {
    // Registers and labels of inner scopes hide those around them.
    let body = format!(
        "mov.u32 %r1, 1;\n{{\n.reg .b32 %r1;\nmov.u32 %r1, 50;\nbra L;\nmov.u32 %r1, 60;\nL:\nmov.u32 %r2, %r1;\n}}\n\
         {{ .reg.b32 t, u; mov.b32 t, 5; mov.b32 u, t; bra L;\nL: add.s32 %r2, %r2, u; }}\nadd.s32 %r1, %r1, %r2;\n{STORE}"
    );
    assert_eq!(run_words("", &body, 1, &[0], 1), [56]);
}
