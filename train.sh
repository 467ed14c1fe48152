#!/usr/bin/env bash
# From nothing to a fine-tuned model: environment, default checkpoint, then S3FT and SFT on the embedded problems.
# Sized to end in six minutes on two CPU cores (100 of the 220 training problems, one epoch).
# Further arguments go to s3ft.py and win over those given here: ./train.sh --ckpt ~/my-model --out runs/mine
set -euo pipefail
cd "$(dirname "$0")"
./setup.sh --checkpoint
exec .venv/bin/python s3ft.py --task gsm8k --ckpt llama --data data/sample/gsm8k --method sft,s3ft \
  --limit 100 --eval-limit 100 --max-new-tokens 200 --epochs 1 --batch 4 --out runs/sample "$@"
