#!/usr/bin/env bash
# Study 2 of RESULTS.md: GSM8K, 1,000 training and 400 test problems.   experiments/gsm8k.sh CKPT [options of study.py or s3ft.py]
# CKPT: the directory of Qwen2.5-Coder-0.5B-Instruct. The same command goes on where it stopped.
exec "$(dirname "$0")/study.sh" gsm8k "${1-}" --limit 1000 --eval-limit 400 --validate-on 400 "${@:2}"
