#!/usr/bin/env bash
# The whole suite: environment, default checkpoint (its tests are skipped where it cannot be fetched), ruff, pytest.
# S3FT_DATA names a folder with the published data sets (gsm8k/…), if they are not fetched into data/.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}  # on a busy machine, threads that spin make small products a hundred times slower
./setup.sh
./setup.sh --checkpoint || echo "run.sh: no default checkpoint; the tests that need it are skipped" >&2
.venv/bin/ruff format --check .
.venv/bin/ruff check .
exec .venv/bin/python -m pytest -q "$@"
