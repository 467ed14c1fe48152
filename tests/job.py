"""Trainings that several processes run together: `torchrun … tests/job.py FOLDER CKPT CASE …`

A case is three letters: l or f (LoRA, all weights), d or s (data-parallel, sharded), k or r
(activations kept or recomputed). With a number behind, the training is killed after this step
has been saved, and one step more has not.
"""

import functools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import pytest
import tiny
import torch

import model as llama
import parallel
import train


class Stopped(Exception):
    pass


def patched_training(stop):
    """Let `train` save its state after every step up to `stop`, and end after one step more."""
    save, now = train.save_state, 0

    def clock():  # eleven seconds between two looks at it, none while the state is saved
        nonlocal now
        now += 11
        return now

    def save_or_stop(path, parameters, optimizer, step):
        nonlocal now
        if step - 1 == stop:
            raise Stopped
        save(path, parameters, optimizer, step)
        now -= 11

    patches = pytest.MonkeyPatch()
    patches.setattr(train.time, "perf_counter", clock)
    patches.setattr(train, "save_state", save_or_stop)
    return patches


def train_case(folder, ckpt, case, stop=None):
    """Train 10 steps, or go on with them; (merged weights, log without seconds) at the end."""
    full, sharded, recompute = case[0] == "f", case[1] == "s", case[2] == "r"
    shard = functools.partial(parallel.shard, dtype=torch.float32) if sharded else None
    model, tokenizer = llama.load(ckpt, shard=shard)
    model.recompute = recompute
    dropout = train.RowDropout(0.2)
    if not full:
        llama.add_lora(model, 4, 8, dropout, seed=0)
    rows = [train.Row(*tiny.training_pair(i)) for i in range(21)]
    settings = {"epochs": 2, "batch": 5, "lr": 1e-3 if full else 1e-2, "micro_tokens": 60}
    patches = patched_training(stop)
    try:
        train.train(model, rows, folder / case, **settings, seed=1, dropout=dropout)
    except Stopped:
        return None
    finally:
        patches.undo()
    weights = llama.merged_weights(model, parallel.full_tensor)
    if parallel.is_main:
        llama.save(model, tokenizer, folder / case / "model", weights)
    log = (folder / case / "train.csv").read_text().splitlines()
    return weights, [line.rpartition(",")[0] for line in log]


if __name__ == "__main__":
    parallel.start("cpu")
    for name in sys.argv[3:]:
        train_case(Path(sys.argv[1]), sys.argv[2], name[:3], int(name[3:] or -1))
    parallel.leave(0)
