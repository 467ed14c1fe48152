#!/usr/bin/env bash
# Study 1 of RESULTS.md: MBPP, 374 training and 500 test problems.     experiments/mbpp.sh CKPT [options of study.py or s3ft.py]
# CKPT: the directory of Qwen2.5-Coder-0.5B-Instruct. The same command goes on where it stopped.
set -euo pipefail
ckpt=$(realpath "${1:?the directory of the checkpoint}")
cd "$(dirname "$0")/.."
./setup.sh
for name in mbpp mmlu truthfulqa hellaswag svamp; do [ -e data/$name ] || .venv/bin/python data/fetch.py $name; done
exec .venv/bin/python experiments/study.py --task mbpp --ckpt "$ckpt" --limit 374 --validate-on 374 --samples 4 "${@:2}"
