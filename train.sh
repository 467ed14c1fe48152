#!/usr/bin/env bash
# From nothing to a fine-tuned model: environment, default checkpoint, then S3FT and SFT on the embedded problems.
# Further arguments go to s3ft.py and win over those given here: ./train.sh --ckpt ~/my-model --out runs/mine
set -euo pipefail
cd "$(dirname "$0")"
./setup.sh --checkpoint
exec .venv/bin/python s3ft.py --task gsm8k --ckpt llama --data data/sample/gsm8k --method sft,s3ft --out runs/sample "$@"
