#!/usr/bin/env bash
# Resolve the newest versions for Python 3.10 to 3.12 and write both constraints files.
# Usage: renew_constraints.sh UV
set -euo pipefail

uv=$1
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
echo uv >"$temporary/uv.in"

# resolve OUTPUT FIXED-PIN... ; the rest of the options come from the array `options`.
resolve() {
    local output=$1
    shift
    printf '%s\n' "$@" >"$temporary/fixed.txt"
    "$uv" pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header \
        --no-emit-index-url --extra test --extra generate "${options[@]}" \
        --constraint "$temporary/fixed.txt" setup.cfg "$temporary/uv.in" |
        grep -v "== 'emscripten'" >"$temporary/$output"
    mv "$temporary/$output" "$output"
}

options=(--override overrides.txt)
resolve constraints.txt torch==2.13.0
# torch_geometric 2.6 asks torch_cluster for neighbours, later ones pyg_lib: both are tested.
options=()
resolve constraints-torch2.4.txt torch==2.4.1 torch-geometric==2.6.1
