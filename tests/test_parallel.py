"""Several processes give what one gives, over gloo; one that dies ends the job; others go on."""

import json
import os
import re
import signal
import subprocess
import sys

import job
import kill
import pytest
import safetensors.torch
import tiny
from test_s3ft import figures, read_rows

import parallel
from journal import Journal


def assert_near(file, expected):
    """Weights within 1e-5."""
    found = safetensors.torch.load_file(file)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() < 1e-5, name


# Training


def run_job(processes, folder, ckpt, *cases):
    argv = [*kill.launcher(processes), kill.ROOT / "tests/job.py", folder, ckpt, *cases]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("ckpt") / "tiny")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, ckpt):
    """{"l" or "f": (merged weights, log)} of LoRA and of all weights, trained here."""
    folder = tmp_path_factory.mktemp("alone")
    return {case[0]: job.train_case(folder, ckpt, case) for case in ("ldk", "fdk")}


def assert_equal_training(folder, alone):
    """Merged weights; of each step loss, learning rate, gradient norm and tokens."""
    weights, log = alone[folder.name[0]]
    assert_near(folder / "model/model.safetensors", weights)
    lines = (folder / "train.csv").read_text().splitlines()
    assert len(lines) == len(log) == 1 + 10
    for line, expected in zip(lines[1:], log[1:]):
        found, values = ([float(value) for value in text.split(",")] for text in (line, expected))
        assert found[:5] == pytest.approx(values, rel=1e-3)


def test_two_processes_train_the_weights_of_one(tmp_path, ckpt, alone):
    """LoRA and all weights, data-parallel and sharded, activations kept and recomputed."""
    cases = ["ldk", "lsk", "lsr", "fdr", "fsk", "fsr"]
    run_job(2, tmp_path, ckpt, *cases)
    for case in cases:
        assert_equal_training(tmp_path / case, alone)


def test_a_training_of_three_processes_goes_on_with_one(tmp_path, ckpt, alone):
    """Three do not share out 5 rows evenly, nor 32 rows of a matrix; one process has no shards."""
    run_job(3, tmp_path, ckpt, "ldk4", "fsk7", "lsk")
    assert_equal_training(tmp_path / "lsk", alone)
    (tmp_path / "fsk").rename(tmp_path / "fdk")
    for case, step in ("ldk", "4"), ("fdk", "7"):
        with safetensors.safe_open(tmp_path / case / "state.safetensors", "pt") as state:
            assert state.metadata()["step"] == step
        job.train_case(tmp_path, ckpt, case)
        assert_equal_training(tmp_path / case, alone)


# The whole command


def logprobs(run):
    """All log-probabilities of a run, in order."""
    found = []
    for row in read_rows(run / "candidates.jsonl"):
        found += [row["gold_logprob"], row.get("paraphrase_logprob", 0.0)]
        found.append(row.get("own", {}).get("logprob", 0.0))
    items = read_rows(run / "bench.jsonl")
    for item in sorted(items, key=lambda item: (item["model"], item["id"])):
        found += item["logprobs"]
    return found


def assert_equal_runs(run, expected):
    """Candidates token for token, targets, scores; weights and log-probabilities nearly."""
    found, values = kill.outputs(run), kill.outputs(expected)
    assert found.keys() == values.keys()
    for name, value in values.items():
        if str(name).endswith(".safetensors"):
            assert_near(run / name, safetensors.torch.load_file(expected / name))
        elif str(name).endswith("targets.jsonl"):
            decimals = rb"\.\d+"  # of the log-probabilities that a fork keeps there
            assert re.sub(decimals, b"", found[name]) == re.sub(decimals, b"", value), name
        elif not str(name).endswith("train.csv"):
            assert found[name] == value, name
    assert logprobs(run) == pytest.approx(logprobs(expected), abs=1e-3)
    left = [file.name for file in run.rglob("*") if re.search(r"\.\d+\.jsonl$|tmp$", file.name)]
    assert not left + list(run.rglob("state.safetensors"))


def test_two_processes_with_shards_give_what_one_gives(tmp_path, whole, arguments):
    out = tmp_path / "run"
    done = kill.finish([*arguments, "--fsdp", "--recompute"], out, processes=2)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(out, whole[1])
    (line,) = done.stdout.splitlines()  # one process speaks for all
    scores, expected = (json.loads(text)["scores"] for text in (line, whole[0].stdout))
    assert kill.without_drift(scores) == kill.without_drift(expected)


def test_a_process_that_dies_ends_the_job_and_others_go_on(tmp_path, whole, arguments):
    """Kill -9 of one of three processes, then of one of two, then a single one goes on."""
    out = tmp_path / "run"
    for mark, processes, rank in ("own: 0 of", 3, 1), ("train s3ft", 2, 0):
        code, said = kill.interrupt(arguments, out, mark, signal.SIGKILL, processes, rank)
        assert code == 1 and not kill.workers(out), said  # nobody hangs
    assert f"{out}: continues where it stopped" in said
    figures(*arguments, "--out", out)
    assert_equal_runs(out, whole[1])


def test_an_error_of_all_processes_is_said_once(tmp_path, arguments, monkeypatch):
    (tmp_path / "ckpt").mkdir()
    done = kill.finish([*arguments, "--ckpt", tmp_path / "ckpt"], tmp_path / "run", processes=2)
    said = [line for line in done.stderr.splitlines() if line.startswith("s3ft.py: ")]
    assert done.returncode == 1 and len(said) == 1 and "ckpt/config.json" in said[0], done.stderr
    assert not (tmp_path / "run").exists()
    waits = []
    monkeypatch.setattr(parallel.time, "sleep", waits.append)
    for is_main in (True, False):
        monkeypatch.setattr(parallel, "is_main", is_main)
        with pytest.raises(SystemExit):
            parallel.leave(2, "words")
    assert waits[0] == 0 and waits[1] > 1  # torchrun ends the others meanwhile


def test_journals_of_several_processes_become_one(tmp_path, monkeypatch):
    """Torn last lines are cut off; what was added later counts; other files are let alone."""
    Journal(tmp_path / "j.jsonl").add("old", own={"text": "x"})
    expected = {"old": {"id": "old", "own": {"text": "x"}}}
    for rank in (0, 1, 2):
        lines = []
        for n in range(rank, 30, 3):
            expected[n] = {"id": n, "own": {"n": n}, "gold": "é"}
            lines += [json.dumps({"id": n, "own": {"n": -1}}), json.dumps(expected[n])]
        text = "\n".join([*lines, '{"id": "torn'])
        (tmp_path / f"j.{rank}.jsonl").write_text(text)
    (tmp_path / "j.sft.jsonl").write_text("another file\n")
    for _ in range(2):
        assert Journal(tmp_path / "j.jsonl").rows == expected
        assert sorted(file.name for file in tmp_path.iterdir()) == ["j.jsonl", "j.sft.jsonl"]
        monkeypatch.setattr(os, "truncate", None)  # the whole file may be replaced meanwhile


RETURNED = """
import re, sys, torch
sys.path.insert(0, sys.argv[1])
import parallel
parallel.start("cpu")
def resident():  # MB
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1]) // 1024
before, small = resident(), []
for _ in range(2):  # glibc keeps what is like something that was freed before
    large = []
    for _ in range(20):
        large.append(torch.ones(5 << 20))  # 20 MB
        small.append(torch.ones(1 << 14))
    del large
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_tensors_go_back_to_the_system():
    command = [sys.executable, "-c", RETURNED, kill.ROOT]
    assert int(subprocess.check_output(command)) < 100


def test_a_container_has_what_its_programs_leave(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 600\nfile 300\n")
    monkeypatch.setattr(parallel, "Path", lambda path: tmp_path / path.rpartition("/")[2])
    assert parallel.free_memory() == 400
