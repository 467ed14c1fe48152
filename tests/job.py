"""What test_parallel.py runs on several processes: `torchrun … tests/job.py FOLDER CKPT CASE …` trains each case and saves its weights.

A case is three letters: l or f (LoRA, all weights), d or s (data-parallel, sharded), k or r (kept or recomputed activations), and
perhaps a number: the training stops after so many steps, and leaves its state for a job of other processes.

`tests/job.py FOLDER logits` loads each checkpoint in FOLDER in teams of two and saves its logits.

`tests/job.py FOLDER early` waits for Ctrl-C before the last process has come to its training.
"""
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]
import safetensors.torch  # noqa: E402
import torch  # noqa: E402

import model as llama  # noqa: E402
import parallel  # noqa: E402
import s3ft  # noqa: E402
import tiny  # noqa: E402
from test_s3ft import ROWS, options  # noqa: E402


def train(folder, ckpt, case):
    """Train one case for 20 steps under `folder`/case, or go on with it; whether it came to the end."""
    full, sharded, recompute, stop = case[0] == "f", case[1] == "s", case[2] == "r", int(case[3:] or 0)
    args = options(out=folder / case[:3], epochs=4, batch=5, micro_tokens=60, full=full, fsdp=sharded, recompute=recompute,
                   lr=1e-3 if full else 1e-2)
    model, tokenizer = llama.load(ckpt, torch.float32, "cpu", torch.float32 if sharded else None)
    model.recompute = recompute
    if not full:
        llama.add_lora(model, 4, 8, 0.2)
    add, count = parallel.total, iter(range(1, 99))

    def total(*values):
        """With three values, `train` adds up loss, Ctrl-C and whether to save: Ctrl-C reaches the last process alone, at step `stop`."""
        pressed = len(values) == 3 and next(count) == stop and parallel.RANK == parallel.SIZE - 1
        return add(values[0], float(pressed), values[2]) if len(values) == 3 else add(*values)
    parallel.total = total
    try:
        s3ft.train(model, ROWS, args, args.out / "arm", 0)
        llama.save(model, tokenizer, args.out / "model")
        return True
    except KeyboardInterrupt:
        return False
    finally:
        parallel.total = add


def logits(ckpt):
    """(pairs, tokens, vocab) of the tiny pairs, padded; the loaded model's number of members."""
    model, _ = llama.load(ckpt)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p + t) for p, t in tiny.PAIRS], batch_first=True)
    with torch.inference_mode():
        return model(ids), model.config.members


if __name__ == "__main__":
    if sys.argv[2] == "logits":
        parallel.start("cpu", 2)
        for path in Path(sys.argv[1]).iterdir():
            found, members = logits(path)
            assert members == 2
            if parallel.RANK == 0:
                safetensors.torch.save_file({"logits": found}, path / "logits")
    elif sys.argv[2] == "early":
        parallel.start("cpu")
        (Path(sys.argv[1]) / f"started {parallel.RANK}").touch()
        if parallel.RANK == parallel.SIZE - 1:
            time.sleep(60)
        with s3ft.interrupt_later():
            pass
    else:
        parallel.start("cpu")
        for name in sys.argv[3:]:
            assert train(Path(sys.argv[1]), sys.argv[2], name) == (not name[3:])
    parallel.finish()
