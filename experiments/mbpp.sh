#!/usr/bin/env bash
# Study 1 of RESULTS.md: MBPP, 374 training and 500 test problems.     experiments/mbpp.sh CKPT [options of study.py or s3ft.py]
# CKPT: the directory of Qwen2.5-Coder-0.5B-Instruct. The same command goes on where it stopped.
exec "$(dirname "$0")/study.sh" mbpp "${1-}" --limit 374 --validate-on 374 --further "samples=--method s3ft --samples 4" \
    --further "harder=--method sft,s3ft --lr 1e-3 --epochs 4" "${@:2}"
