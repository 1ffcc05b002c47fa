#!/usr/bin/env bash
# Sets up .venv in this clone and runs the tests; arguments go to pytest.
#
#     bash launch/test.sh                       everything but the tests marked slow
#     bash launch/test.sh -m slow               those
#     bash launch/test.sh tests/launch -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

set_up_environment dev
cd "$ROOT"
export PATH="$VENV/bin:$PATH"
# One thread a process: ranks and tests would fight over the cores otherwise.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false

# A marker of the caller's own replaces ours.
for argument in "$@"; do
    case "$argument" in -m | -m?*) exec "$VENV_PYTHON" -m pytest "$@" ;; esac
done
exec "$VENV_PYTHON" -m pytest -m "not slow" "$@"
