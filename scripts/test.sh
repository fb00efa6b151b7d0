#!/usr/bin/env bash
# All checks: format, lints, documentation, the CUDA kernels' PTX, and every test of the workspace.
#
#   scripts/test.sh [arguments for `cargo test`]      e.g. scripts/test.sh -p oc-engine
#
# With CI=true a test whose reference data is absent fails, and so does the check of the PTX where its tools cannot be
# fetched; otherwise it says so and is skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked
# The committed PTX is what its sources compile to, assembles for every GPU generation, and keeps to its budgets.
status=0
step cargo xtask ptx --check || status=$?
if [ $status -eq 3 ] && [ "${CI:-}" != true ]; then
    echo 'skipped: the check of the PTX, for want of its tools (see above)'
elif [ $status -ne 0 ]; then
    exit $status
fi
if [ $# -eq 0 ]; then
    step cargo test --workspace --locked
else
    step cargo test --locked "$@"
fi
