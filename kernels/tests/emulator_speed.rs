//! How fast the emulator is: `cargo test -p oc-kernels --test emulator_speed -- --ignored --nocapture`.

use std::time::Instant;

use oc_kernels::{
    cuda::device::{Arg, Device, Launch, Module},
    emulator::{Emulator, EmulatorOptions},
};

/// A kernel of one warp that repeats `body` 64 times in a loop of 100; the best of 20 launches.
fn time(name: &str, declarations: &str, body: &str) -> f64 {
    let body = body.repeat(64);
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_p)\n{{\n.reg .pred %p<8>;\n\
         .reg .b32 %r<32>;\n.reg .f32 %f<32>;\n.reg .b64 %rd<16>;\n.shared .align 16 .b8 sm[4096];\n\
         ld.param.u64 %rd1, [k_p];\nmov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 16;\nadd.s64 %rd3, %rd1, %rd2;\n\
         mov.u32 %r2, 0;\nmov.u64 %rd4, sm;\nadd.s64 %rd5, %rd4, %rd2;\ncvt.u32.u64 %r20, %rd5;\n\
         mov.u32 %r3, 3;\nmov.u32 %r4, 4;\nmov.u32 %r5, 5;\nmov.u32 %r6, 6;\nmov.u32 %r21, -1;\nmov.f32 %f1, 0f3F800000;\n\
         mov.f32 %f2, 0f3F800001;\nmov.f32 %f3, 0f3F800000;\nmov.f32 %f4, 0f3F800000;\nmov.f32 %f5, 0f3F800000;\n\
         mov.f32 %f6, 0f3F800000;\nst.shared.v4.u32 [%rd5], {{%r3,%r4,%r5,%r6}};\nbar.warp.sync -1;\n{declarations}\n\
         LOOP:\n{body}\nadd.s32 %r2, %r2, 1;\nsetp.lt.s32 %p1, %r2, 100;\n@%p1 bra LOOP;\nret;\n}}\n"
    );
    let module: &'static Module = Box::leak(Box::new(Module { name: "speed", ptx: Box::leak(text.into_boxed_str()) }));
    let device = Emulator::new(EmulatorOptions { threads: 1, ..EmulatorOptions::default() });
    let ptr = device.alloc("data", 4096).unwrap();
    device.upload(&[0; 4096], ptr).unwrap();
    let args = [Arg::Ptr(ptr)];
    let launch = Launch { module, kernel: "k", grid: [1; 3], block: [32, 1, 1], shared_bytes: 0, args: &args };
    let mut nanos = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        device.launch(&launch).unwrap();
        nanos = nanos.min(start.elapsed().as_nanos() as f64 / (64.0 * 100.0));
    }
    println!("{name:>24} {nanos:7.1} ns");
    nanos
}

#[test]
#[ignore = "a measurement; needs an idle machine"]
fn speed() {
    for (name, body) in [
        ("add.s32", "add.s32 %r7, %r3, %r4;\n"),
        ("mad.lo.s32", "mad.lo.s32 %r7, %r3, %r4, %r5;\n"),
        ("add.s64", "add.s64 %rd6, %rd1, %rd2;\n"),
        ("mul.wide.s32", "mul.wide.s32 %rd6, %r3, %r4;\n"),
        ("fma.rn.f32", "fma.rn.f32 %f7, %f1, %f2, %f3;\n"),
        ("add.f32", "add.f32 %f7, %f1, %f2;\n"),
        ("max.f32", "max.f32 %f7, %f1, %f2;\n"),
        ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f7, %f1;\n"),
        ("setp + selp", "setp.lt.s32 %p2, %r3, %r4;\nselp.b32 %r7, %r3, %r4, %p2;\n"),
        ("predicated add", "@%p3 add.s32 %r7, %r3, %r4;\n"),
        ("bfe.u32", "bfe.u32 %r7, %r3, %r4, %r5;\n"),
        ("cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32 %r7, %f1, %f2;\n"),
        ("fma.rn.bf16x2", "fma.rn.bf16x2 %r7, %r3, %r4, %r5;\n"),
        ("mov.b64 pack", "mov.b64 %rd6, {%r3, %r4};\n"),
        ("shfl.sync.bfly", "shfl.sync.bfly.b32 %r7, %r3, 1, 31, -1;\n"),
        ("ld.global.u32", "ld.global.u32 %r7, [%rd3];\n"),
        ("ld.global.nc.v4.u32", "ld.global.nc.v4.u32 {%r7,%r8,%r9,%r10}, [%rd3];\n"),
        ("st.global.v4.u32", "st.global.v4.u32 [%rd3], {%r3,%r4,%r5,%r6};\n"),
        ("ld.shared.v4.u32", "ld.shared.v4.u32 {%r7,%r8,%r9,%r10}, [%rd5];\n"),
        ("st.shared.v4.u32", "st.shared.v4.u32 [%rd5], {%r3,%r4,%r5,%r6};\n"),
        ("ld.shared.u16", "ld.shared.u16 %r7, [%rd5];\n"),
        ("ldmatrix.x4", "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r7,%r8,%r9,%r10}, [%r20];\n"),
        (
            "mma.m16n8k16",
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f3,%f4,%f5,%f6}, {%r3,%r4,%r5,%r6}, {%r3,%r4}, \
             {%f3,%f4,%f5,%f6};\n",
        ),
        (
            "mma.m16n8k16 f16",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f3,%f4,%f5,%f6}, {%r3,%r4,%r5,%r6}, {%r3,%r4}, \
             {%f3,%f4,%f5,%f6};\n",
        ),
        (
            "cp.async and its wait",
            "cp.async.cg.shared.global [%r20], [%rd3], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n",
        ),
        ("bar.sync", "bar.sync 0;\n"),
    ] {
        let declarations = if body.starts_with('@') { "setp.lt.u32 %p3, %r1, 7;\n" } else { "" };
        assert!(time(name, declarations, body) > 0.0);
    }
}
