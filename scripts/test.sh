#!/usr/bin/env bash
# All checks: format, lints, documentation, and every test of the workspace.
#
#   scripts/test.sh [arguments for `cargo test`]      e.g. scripts/test.sh -p oc-engine
#
# With CI=true a test whose reference data is absent fails; otherwise it says so and is skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked
if [ $# -eq 0 ]; then
    step cargo test --workspace --locked
else
    step cargo test --locked "$@"
fi
