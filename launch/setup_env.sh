# Sourced by quickstart.sh and test.sh: makes .venv in the clone and installs the project into it.
#
#     set_up_environment EXTRAS      e.g. "onnx" or "dev"
#
# Leaves the environment's python in $VENV_PYTHON. Does nothing when a stamp says that this very
# pyproject.toml and constraints.txt are installed already.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
VENV_PYTHON="$VENV/bin/python"

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# A python of 3.11 or newer: $PYTHON if set, else the first that is on the PATH and runs.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python
    python=$(find_python) || die \
        "Brewhouse needs Python 3.11 or newer and found none${PYTHON:+ at PYTHON=$PYTHON}." \
        "On Debian or Ubuntu: apt-get install python3 python3-venv" \
        "Or name one yourself: PYTHON=/path/to/python bash $0"
    # Debian ships python without the part of venv that installs pip.
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || die \
        "$python has no venv module, which the set-up needs." \
        "On Debian or Ubuntu: apt-get install python3-venv"
    echo "Making $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV" || die "Could not make $VENV."
}

# Brewhouse's share of DeepSpeed is compiled at its first use.
warn_about_compiler() {
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || echo \
        "No C++ compiler found: training needs one. On Debian or Ubuntu: apt-get install g++" >&2
}

set_up_environment() {
    local extras=$1 wanted stamp quiet=()
    # A clone that was moved needs its environment again: scripts in it name their place.
    wanted=$(printf '%s' "$ROOT" | cat - "$ROOT/pyproject.toml" "$ROOT/constraints.txt" |
        sha256sum | cut -d' ' -f1)
    for stamp in "$VENV/brewhouse-$extras.stamp" "$VENV/brewhouse-dev.stamp"; do
        if [ -x "$VENV_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
            return 0 # [dev] holds all that the others do
        fi
    done
    warn_about_compiler
    "$VENV_PYTHON" -c 'import pip' >/dev/null 2>&1 || make_venv
    echo "Installing brewhouse[$extras] and the tested versions of what it needs (minutes, once)"
    [ -t 1 ] || quiet=(-qq --progress-bar off)
    "$VENV_PYTHON" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} \
        -c "$ROOT/constraints.txt" -e "$ROOT[$extras]" || die \
        "The installation failed; the message of pip stands above." \
        "Mend it and run the same command again."
    printf '%s\n' "$wanted" >"$VENV/brewhouse-$extras.stamp"
}
