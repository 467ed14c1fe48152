"""bench.py runs and adds up; how fast anything is, no test says."""
import json
import subprocess
import sys

import bench as benchmark
import pytest
import tiny
from test_s3ft import ROOT


def figures(*args):
    done = subprocess.run([sys.executable, ROOT / "bench.py", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_all_parts(tmp_path):
    found, said = figures("--ckpt", tiny.checkpoint(tmp_path / "ckpt"), "--only", "step,generate,train,load", "--prompts", 5, "--new", 6,
                          "--rows", 9, "--dtype", "float32", "--peers", tmp_path / "no-python")
    assert found["generate"]["ours"] > 0 and found["train"]["ours"] > 0 and found["load"]["help"] > 0, said
    for rows in ("32", "256"):
        times = found["step"][rows]
        assert 0 < times["products"] < times["roofline"]
    assert "transformers" not in found["generate"] and "apart" not in found["train"] and "cannot be run" in said


def test_errors_are_one_line(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "bench.py", "--ckpt", tmp_path / "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("shape, millions", [("1b", 1236), ("8b", 8030)])
def test_shapes_have_the_size_of_their_name(tmp_path, shape, millions):
    import model as llama
    import torch
    (tmp_path / "config.json").write_text(json.dumps(benchmark.SHAPES[shape]))
    with torch.device("meta"):
        model = llama.Transformer(*llama.read_config(tmp_path))
    assert round(sum(p.numel() for p in model.parameters()) / 10 ** 6) == millions
