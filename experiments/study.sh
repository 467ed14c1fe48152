#!/usr/bin/env bash
# What the three studies share: environment, data, study.py.           experiments/study.sh TASK CKPT [options of study.py or s3ft.py]
set -euo pipefail
[ -d "${2-}" ] || { echo "experiments/$1.sh: '${2-}' is no directory; give the one of the checkpoint: experiments/$1.sh CKPT" >&2; exit 2; }
ckpt=$(realpath "$2")
cd "$(dirname "$0")/.."
./setup.sh
for name in "$1" mmlu truthfulqa hellaswag svamp; do [ -e "data/$name" ] || .venv/bin/python data/fetch.py "$name"; done
exec .venv/bin/python experiments/study.py --task "$1" --ckpt "$ckpt" "${@:3}"
