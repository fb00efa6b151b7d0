//! Barriers: what they order, and what they count.

use oc_kernels::emulator::FaultKind;

use super::harness::{kernel_text, run_kernel, run_words};

const TILE: &str = ".shared .align 16 .b8 tile[512];";
const OWN: &str = "mov.u32 %r1, tile;\nmad.lo.u32 %r2, %tid, 4, %r1;\nxor.b32 %r3, %r2, 128;\nxor.b32 %r4, %r2, 4;\n";

#[test]
fn blocks_and_warps() {
    let exchange = |barrier: &str, from: &str| {
        format!(
            "{OWN}st.shared.u32 [%r2], %tid;\n{barrier}\nld.shared.u32 %r5, [{from}];\nmad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r5;"
        )
    };
    for barrier in ["bar.sync 0;", "barrier.sync 3;", "barrier.sync.aligned 0;", "bar.cta.sync 1, 64;"] {
        let found = run_words(TILE, &exchange(barrier, "%r3"), 64, &[0], 64);
        assert!(found.iter().enumerate().all(|(i, &x)| x == i as u32 ^ 32), "{barrier}");
    }
    let found = run_words(TILE, &exchange("bar.warp.sync -1;", "%r4"), 64, &[0], 64);
    assert!(found.iter().enumerate().all(|(i, &x)| x == i as u32 ^ 1));
    // A warp's barrier orders nothing between warps, and a shuffle or a fence orders no memory.
    for (barrier, from) in
        [("bar.warp.sync -1;", "%r3"), ("shfl.sync.bfly.b32 %r9, %tid, 1, 31, -1;", "%r4"), ("membar.cta;", "%r4")]
    {
        let fault = run_kernel(kernel_text(TILE, &exchange(barrier, from)), 64, 0, &[0; 4], 256).unwrap_err();
        assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::UninitialisedMemory), "{barrier}: {fault}");
    }
}

#[test]
fn partial_warps_and_odd_blocks() {
    let body = format!(
        "{OWN}st.shared.u32 [%r2], %tid;\nbar.sync 0;\nmov.u32 %r6, 49;\nsub.s32 %r6, %r6, %tid;\nmad.lo.u32 %r7, %r6, 4, %r1;\n\
        ld.shared.u32 %r5, [%r7];\nmad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r5;"
    );
    let found = run_words(TILE, &body, 50, &[0], 50);
    assert!(found.iter().enumerate().all(|(i, &x)| x == 49 - i as u32));
}

#[test]
fn producer_and_consumer() {
    // Warp 0 fills, warp 1 reads, through two barriers of two warps each, three times over.
    let body = format!(
        "{OWN}mov.u32 %r10, 0;\nmov.u32 %r11, 0;\nsetp.ge.u32 %p1, %tid, 32;\nLOOP:\n@%p1 bra READ;\n\
         add.s32 %r5, %tid, %r10;\nst.shared.u32 [%r2], %r5;\nbar.arrive 1, 64;\nbar.sync 2, 64;\nbra NEXT;\n\
         READ:\nbar.sync 1, 64;\nld.shared.u32 %r6, [%r3];\nadd.s32 %r11, %r11, %r6;\nbar.arrive 2, 64;\n\
         NEXT:\nadd.s32 %r10, %r10, 1;\nsetp.lt.u32 %p2, %r10, 3;\n@%p2 bra LOOP;\n\
         mad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r11;"
    );
    let found = run_words(TILE, &body, 64, &[0], 64);
    assert!((0..32).all(|i| found[32 + i] == 3 * i as u32 + 3));
    // Without the way back the second value overwrites the first.
    let racy = body.replace("bar.sync 2, 64;\n", "").replace("bar.arrive 2, 64;\n", "");
    let fault = run_kernel(kernel_text(TILE, &racy), 64, 0, &[0; 4], 256).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::SharedRace | FaultKind::BarrierDivergence), "{fault}");
}

#[test]
fn reductions() {
    let body = "and.b32 %r1, %tid, 3;\nsetp.eq.u32 %p1, %r1, 0;\nbar.red.popc.u32 %r2, 0, %p1;\nbar.red.and.pred %p2, 0, %p1;\n\
        bar.red.or.pred %p3, 0, %p1;\nselp.b32 %r3, 1, 0, %p2;\nselp.b32 %r4, 1, 0, %p3;\n\
        mad.wide.u32 %rd1, %tid, 16, %out;\nst.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r4};";
    let found = run_words("", body, 96, &[0], 96 * 4);
    assert!(found.as_chunks::<4>().0.iter().all(|x| *x == [24, 0, 1, 1]));
}

#[test]
fn reads_before_a_barrier_do_not_race_with_writes_after_it() {
    // Every warp reads all, then the owner writes, for several rounds.
    let body = format!(
        "{OWN}st.shared.u32 [%r2], %tid;\nmov.u32 %r10, 0;\nLOOP:\nbar.sync 0;\nld.shared.u32 %r5, [%r3];\nld.shared.u32 %r6, [tile];\n\
         bar.sync 0;\nadd.s32 %r5, %r5, %r6;\nst.shared.u32 [%r2], %r5;\nadd.s32 %r10, %r10, 1;\nsetp.lt.u32 %p1, %r10, 4;\n@%p1 bra LOOP;\n\
         mad.wide.u32 %rd1, %tid, 4, %out;\nst.global.u32 [%rd1], %r5;"
    );
    let found = run_words(TILE, &body, 128, &[0], 128);
    let mut tile: Vec<u32> = (0..128).collect();
    for _ in 0..4 {
        tile = (0..128).map(|i| tile[i ^ 32] + tile[0]).collect();
    }
    assert_eq!(found, tile);
}
