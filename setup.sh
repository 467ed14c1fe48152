#!/usr/bin/env bash
# Makes .venv with the pinned packages of requirements.txt, and with --checkpoint also ./llama (SmolLM2-135M-Instruct, 269 MB).
# Does nothing that is done already. PYTHON names the interpreter (3.10 or later).
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
if ! cmp -s requirements.txt .venv/installed.txt; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "setup.sh: Python 3.10 or later is needed; name one: PYTHON=python3.12 $0" >&2; exit 2; }
  "$python" -m venv .venv || { echo "setup.sh: $python cannot make a virtual environment; install its venv package (Debian: python3-venv)" >&2; exit 2; }
  .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
  cp requirements.txt .venv/installed.txt
fi
if [ "${1-}" = --checkpoint ] && [ ! -e llama/model.safetensors ]; then
  .venv/bin/python -m pip install -q --disable-pip-version-check gguf==0.19.0  # reads the checkpoint's file, needed here alone
  .venv/bin/python data/fetch.py checkpoint llama
fi
