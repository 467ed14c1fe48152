#!/usr/bin/env bash
# Study 2 of RESULTS.md: GSM8K, 1,000 training and 400 test problems.   experiments/gsm8k.sh CKPT [options of study.py or s3ft.py]
# CKPT: the directory of Qwen2.5-Coder-0.5B-Instruct. The same command goes on where it stopped.
set -euo pipefail
ckpt=$(realpath "${1:?the directory of the checkpoint}")
cd "$(dirname "$0")/.."
./setup.sh
for name in gsm8k mmlu truthfulqa hellaswag svamp; do [ -e data/$name ] || .venv/bin/python data/fetch.py $name; done
exec .venv/bin/python experiments/study.py --task gsm8k --ckpt "$ckpt" --limit 1000 --eval-limit 400 --validate-on 600 "${@:2}"
