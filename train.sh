#!/usr/bin/env bash
# From nothing to a fine-tuned model: environment, default checkpoint, then SFT and S3FT on the
# embedded questions, half of which their passage does not answer. Six minutes on two CPU cores.
# Further arguments go to s3ft.py and win over those given here, as --lr 1e-4 --out runs/mine.
set -euo pipefail
cd "$(dirname "$0")"
./setup.sh --checkpoint
exec .venv/bin/python s3ft.py --task nq --ckpt llama --data data/sample/nq --method sft,s3ft \
  --epochs 1 --batch 4 --out runs/demo "$@"
