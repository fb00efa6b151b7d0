#!/usr/bin/env bash
# Checks and times the CUDA kernels and whole models on a real GPU, on a machine that needs no Rust: binaries are packed elsewhere.
#
#   scripts/gpu.sh pack [FILE]      with Rust: builds, and packs binaries, tests and this script (default target/gpu.tar.gz)
#   tar xzf gpu.tar.gz && gpu/gpu.sh run [FOLDER [DATA [MODEL]]]      with a GPU; results go to FOLDER (default gpu-results)
#
# `run` runs the kernel tests on the GPU, compares it with the emulator, benchmarks whole models and every operation, asks the
# same questions in other batches, runs the tests and a tiny model again under compute-sanitizer, and compares with PyTorch, where
# these two are installed. With DATA, which holds `ceval` and `internlm/tokenizer.model`, C-Eval itself goes through a model of
# InternLM2-7B's shape, and through transformers; with MODEL, a small real one, the GPU's answers are compared with the
# processor's. Exit status 1 if anything is wrong. OC_GPU_STEPS is a pattern of the steps to take, for a GPU that is at hand for
# minutes only: 'model-*', '@(bench|torch)', '!(device_equality|*check-*)'. With OC_TEST_DEVICE=emulator (or cpu) this is
# rehearsed without a GPU: nothing is timed, and a tiny model stands for the 7B.
set -euo pipefail
shopt -s extglob

# The tests that run where OC_TEST_DEVICE says, and one that takes minutes, as it runs all on the emulator too.
tests=(cuda rows cuda_rotary cuda_sample)
slow_test=device_equality

pack() {
    local root file
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    cd "$root"
    file=${1:-target/gpu.tar.gz}
    # Not local: the trap runs when the function has returned.
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    mkdir -p "$stage/gpu/tests"
    cargo build --release --locked -p oc-cli
    cp "${CARGO_TARGET_DIR:-target}/release/oc-cli" scripts/{gpu.sh,agreement.py} benches/peers/torch_*.py "$stage/gpu/"
    cp -r benches/shapes tests/fixtures/internlm2 "$stage/gpu/"
    for name in "${tests[@]}" "$slow_test"; do
        # Cargo says in JSON where it put the test's binary.
        binary=$(cargo test --release --locked -p oc-kernels --test "$name" --no-run --message-format=json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
        cp "$binary" "$stage/gpu/tests/$name"
    done
    tar czf "$file" -C "$stage" gpu
    echo "$file"
}

# The predictions of the run below folder $1.
bytes() { (cd "$1"/2* && find predictions -type f -print0 | sort -z | xargs -0 sha256sum); }

# Asks the same questions in batches of several sizes, below folder $1; the answers have to be the same bytes.
in_batches() {
    local folder=$1 size
    shift
    for size in 1 7 64 100000; do
        # `set -e` does not hold in what `step` runs.
        ./oc-cli eval "$@" --batch-size "$size" -w "$folder/$size" || return 1
        bytes "$folder/$size" > "$folder/$size.sha256" || return 1
        [ -s "$folder/1.sha256" ] && cmp "$folder/1.sha256" "$folder/$size.sha256" || return 1
    done
    echo "the same bytes in batches of 1, 7, 64 and all: $(wc -l < "$folder/1.sha256") files of predictions"
}

# The answers of the GPU and of the processor to two subjects, below folder $1, by the rest of the arguments.
agreement() {
    local folder=$1 device
    shift
    for device in "$OC_TEST_DEVICE" cpu; do
        ./oc-cli eval --datasets ceval_gen --subjects logic,law --max-out-len 8 --dtype bf16 "$@" --device "$device" \
            -w "$folder/$device" || return 1
    done
    python3 agreement.py "$folder/$OC_TEST_DEVICE"/2* "$folder/cpu"/2*
}

run() {
    local out data model shape failed=0
    out=$(realpath -m "${1:-gpu-results}")
    data=${2:+$(realpath "$2")}
    model=${3:+$(realpath "$3")}
    cd "$(dirname "${BASH_SOURCE[0]}")"
    mkdir -p "$out"
    export OC_TEST_DEVICE=${OC_TEST_DEVICE:-cuda}
    shape=shapes/internlm2-7b
    if [ "$OC_TEST_DEVICE" = cuda ]; then nvidia-smi > "$out/nvidia-smi.txt"; else shape=shapes/internlm2-tiny; fi
    local tiny=(--hf-path internlm2 --dtype bf16 --max-out-len 16)
    tiny+=(--device "$OC_TEST_DEVICE")

    # shellcheck disable=SC2053 # a pattern
    wanted() { [[ $1 == ${OC_GPU_STEPS:-*} ]]; }
    # What a step prints goes to a file too; a step that fails does not keep the others from running.
    step() {
        local name=$1
        shift
        wanted "$name" || return 0
        printf '\n== %s: %s\n' "$name" "$*"
        "$@" 2>&1 | tee "$out/$name.txt" || { echo "== $name FAILED"; failed=1; }
    }
    step doctor ./oc-cli doctor
    for name in "${tests[@]}"; do
        step "$name" "tests/$name" --test-threads 1
    done
    for name in gen ppl; do
        step "batches-tiny-$name" in_batches "$out/tiny-$name" --datasets "ceval_demo_$name" "${tiny[@]}"
    done
    if [ "$OC_TEST_DEVICE" = cuda ]; then
        # Whole models with random weights: prompts, tokens after 1,200, all of C-Eval val in its sizes.
        for name in InternLM2-7B Qwen2-0.5B; do
            step "model-$name" ./oc-cli bench --shape "$name" --device cuda --what prefill,decode,gen,ppl --prompt-tokens 1200 \
                --sequences 1,16,64
        done
        # As a document, for a later --baseline and for the comparison with PyTorch, then as a table that compares the two.
        ! wanted bench || ./oc-cli bench-kernels --device cuda --json > "$out/bench.json" || failed=1
        step bench ./oc-cli bench-kernels --device cuda --baseline "$out/bench.json"
    fi
    if [ -n "$data" ]; then
        local ceval=(--data-dir "$data" --tokenizer-path "$data/internlm" --load-format dummy)
        local asked=(--hf-path "$shape" --dtype bf16 --max-out-len 16 --device "$OC_TEST_DEVICE" "${ceval[@]}")
        local few=() fewer=(--limit 5)
        [ "$OC_TEST_DEVICE" = cuda ] || { few=(--subjects logic --limit 1); fewer=("${few[@]}"); }
        for name in gen ppl; do
            # The last line has the seconds to scores, building prompts and their tokens included.
            step "ceval-$name" ./oc-cli eval --datasets "ceval_$name" "${asked[@]}" "${few[@]}" -w "$out/ceval-$name"
            ! wanted transformers || ./oc-cli prompt --datasets "ceval_$name" --all --jsonl --hf-path shapes/internlm2-tiny \
                "${ceval[@]}" "${few[@]}" > "$out/$name.jsonl" || failed=1
            step "batches-ceval-$name" in_batches "$out/batches-$name" --datasets "ceval_$name" "${asked[@]}" "${fewer[@]}"
        done
        if python3 -c 'import torch, transformers' 2> /dev/null; then
            local where=cuda
            [ "$OC_TEST_DEVICE" = cuda ] || where=cpu
            step transformers python3 torch_model.py "$shape" --gen "$out/gen.jsonl" --ppl "$out/ppl.jsonl" --device "$where"
        else
            echo 'skipped: transformers is not installed'
        fi
        [ -z "$model" ] || step agreement agreement "$out/agreement" --hf-path "$model" --data-dir "$data"
    fi
    if command -v compute-sanitizer > /dev/null; then
        step memcheck-tiny compute-sanitizer --tool memcheck --error-exitcode 1 \
            ./oc-cli eval --datasets ceval_demo_gen "${tiny[@]}" --limit 1 -w "$out/memcheck"
        for tool in memcheck racecheck; do
            for name in cuda rows; do
                step "$tool-$name" compute-sanitizer --tool "$tool" --error-exitcode 1 "tests/$name" --test-threads 1
            done
        done
    else
        echo 'skipped: compute-sanitizer is not installed (it comes with the CUDA toolkit)'
    fi
    if [ "$OC_TEST_DEVICE" != cuda ]; then
        echo "rehearsed on $OC_TEST_DEVICE: nothing was timed"
    elif python3 -c 'import torch' 2> /dev/null; then
        step torch python3 torch_kernels.py "$out/bench.json"
    else
        echo 'skipped: PyTorch is not installed'
    fi
    step "$slow_test" "tests/$slow_test" --test-threads 1
    printf '\nresults: %s\n' "$out"
    return $failed
}

case ${1:-} in
    pack | run) "$@" ;;
    *)
        sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
