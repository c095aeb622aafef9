#!/usr/bin/env bash
# Make a virtual environment and install the project with pinned versions.
# Usage: make_environment.sh DIRECTORY PYTHON CONSTRAINTS [OVERRIDES]
set -euo pipefail

directory=$1 python=$2 constraints=$3 overrides=${4:-}
extras=".[test,generate]"

# A setting of pip, from its environment variable or its configuration files.
pip_setting() {
    local variable="PIP_${1^^}"
    variable=${variable//-/_}
    if [ -n "${!variable:-}" ]; then
        printf '%s' "${!variable}"
        return
    fi
    "$directory/bin/python" -m pip config get "global.$1" 2>/dev/null ||
        "$directory/bin/python" -m pip config get "install.$1" 2>/dev/null || true
}

# Give uv what pip was told, unless uv was told something itself.
pass_on() {
    local value
    value=$(pip_setting "$1" | tr '\n' ' ' | sed 's/ *$//')
    if [ -n "$value" ] && [ -z "${!2:-}" ]; then
        export "$2=${value// /$3}"
    fi
}

[ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
if "$directory/bin/python" -m pip install --quiet --constraint "$constraints" uv; then
    pass_on index-url UV_DEFAULT_INDEX " "
    pass_on extra-index-url UV_INDEX " "
    pass_on find-links UV_FIND_LINKS ","
    pass_on cert SSL_CERT_FILE " "
    # The best version of all indexes, as pip takes it.
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
    # Bytecode as pip makes it: without it, and where Python may not write it later, every start compiles
    # torch and PyG again, which takes longer than a short training.
    "$directory/bin/uv" pip install --python "$directory/bin/python" --constraint "$constraints" \
        ${overrides:+--override "$overrides"} --compile-bytecode --editable "$extras"
else
    echo "uv cannot be installed here: using pip, which takes longer" >&2
    "$directory/bin/python" -m pip install --no-deps --requirement "$constraints"
    "$directory/bin/python" -m pip install --no-deps --editable .
fi
