#!/usr/bin/env bash
# Checks and times the CUDA kernels and whole models on a real GPU, on a machine that needs no Rust: binaries are packed elsewhere.
#
#   scripts/gpu.sh pack [FILE]      with Rust: builds, and packs binaries, tests and this script (default target/gpu.tar.gz)
#   tar xzf gpu.tar.gz && gpu/gpu.sh run [FOLDER]      with a GPU: everything below; results go to FOLDER (gpu-results)
#
# `run` runs the kernel tests on the GPU, compares it with the emulator, benchmarks whole models and every operation, runs the
# tests again under compute-sanitizer and compares with PyTorch, where these two are installed. Exit status 1 if anything is wrong.
set -euo pipefail

# The tests that run where OC_TEST_DEVICE says.
tests=(cuda rows cuda_rotary cuda_sample device_equality)

pack() {
    local root file stage
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    cd "$root"
    file=${1:-target/gpu.tar.gz}
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    mkdir -p "$stage/gpu/tests"
    cargo build --release --locked -p oc-cli
    cp "${CARGO_TARGET_DIR:-target}/release/oc-cli" scripts/gpu.sh benches/peers/torch_kernels.py "$stage/gpu/"
    for name in "${tests[@]}"; do
        # Cargo says in JSON where it put the test's binary.
        binary=$(cargo test --release --locked -p oc-kernels --test "$name" --no-run --message-format=json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
        cp "$binary" "$stage/gpu/tests/$name"
    done
    tar czf "$file" -C "$stage" gpu
    echo "$file"
}

run() {
    local out failed=0
    out=$(realpath -m "${1:-gpu-results}")
    cd "$(dirname "${BASH_SOURCE[0]}")"
    mkdir -p "$out"
    nvidia-smi > "$out/nvidia-smi.txt"
    export OC_TEST_DEVICE=cuda

    # What a step prints goes to a file too; a step that fails does not keep the others from running.
    step() {
        local name=$1
        shift
        printf '\n== %s: %s\n' "$name" "$*"
        "$@" 2>&1 | tee "$out/$name.txt" || { echo "== $name FAILED"; failed=1; }
    }
    step doctor ./oc-cli doctor
    for name in "${tests[@]}"; do
        step "$name" "tests/$name" --test-threads 1
    done
    # Whole models with random weights: prompts, tokens after 1,200, all of C-Eval val in its sizes.
    for shape in InternLM2-7B Qwen2-0.5B; do
        step "model-$shape" ./oc-cli bench --shape "$shape" --device cuda --what prefill,decode,gen,ppl --prompt-tokens 1200 \
            --sequences 1,16,64
    done
    # As a document, for a later --baseline and for the comparison with PyTorch, then as a table that compares the two.
    ./oc-cli bench-kernels --device cuda --json > "$out/bench.json" || failed=1
    step bench ./oc-cli bench-kernels --device cuda --baseline "$out/bench.json"
    if command -v compute-sanitizer > /dev/null; then
        for tool in memcheck racecheck; do
            for name in cuda rows; do
                step "$tool-$name" compute-sanitizer --tool "$tool" --error-exitcode 1 "tests/$name" --test-threads 1
            done
        done
    else
        echo 'skipped: compute-sanitizer is not installed (it comes with the CUDA toolkit)'
    fi
    if python3 -c 'import torch' 2> /dev/null; then
        step torch python3 torch_kernels.py "$out/bench.json"
    else
        echo 'skipped: PyTorch is not installed'
    fi
    printf '\nresults: %s\n' "$out"
    return $failed
}

case ${1:-} in
    pack | run) "$@" ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
