#!/usr/bin/env bash
# Study 3 of RESULTS.md: Natural Questions, 800 training and 600 test questions.   experiments/nq.sh CKPT [options of study.py or s3ft.py]
# CKPT: once with Qwen2.5-Coder-0.5B-Instruct, once with SmolLM2-135M-Instruct. The same command goes on where it stopped.
exec "$(dirname "$0")/study.sh" nq "${1-}" --limit 800 --eval-limit 600 --validate-on 480 \
    --further "shots=--method s3ft --select-shots 4" "${@:2}"
