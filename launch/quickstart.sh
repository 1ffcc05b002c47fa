#!/usr/bin/env bash
# From nothing to a trained, evaluated and exported recommender on four public corpora.
#
#     bash launch/quickstart.sh [--fresh]
#
# Sets up .venv in this clone, then runs `brewhouse quickstart`, which prints each command before
# it runs it. Run it again after an interruption: it goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

set_up_environment onnx
cd "$ROOT"
export PATH="$VENV/bin:$PATH" # ninja and deepspeed are looked up there
exec "$VENV/bin/brewhouse" quickstart "$@"
