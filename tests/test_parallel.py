"""Several processes give what one gives, over gloo; one that dies ends the job; others go on."""

import json
import re
import signal
import subprocess

import job
import kill
import pytest
import safetensors.torch
import tiny
from test_s3ft import figures, read_rows

import parallel
from journal import Journal


def run_job(processes, folder, ckpt, *cases):
    argv = [*kill.launcher(processes), kill.ROOT / "tests/job.py", folder, ckpt, *cases]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


# Training


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("ckpt") / "tiny")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, ckpt):
    """{"l" or "f": (merged weights, log)} of LoRA and of all weights, trained here."""
    folder = tmp_path_factory.mktemp("one")
    return {case[0]: job.train_case(folder, ckpt, case) for case in ("ldk", "fdk")}


def assert_equal_training(folder, one_process):
    """Merged weights within 1e-5, the same losses of the same batches."""
    weights, log = one_process[folder.name[0]]
    found = safetensors.torch.load_file(folder / "model/model.safetensors")
    assert found.keys() == weights.keys()
    for name, expected in weights.items():
        assert (found[name] - expected).abs().max() < 1e-5, name
    lines = (folder / "train.csv").read_text().splitlines()
    assert len(lines) == len(log) == 11
    for line, expected in zip(lines[1:], log[1:]):
        step, loss, _, _, tokens, _ = line.split(",")
        step_expected, loss_expected, _, _, tokens_expected = expected.split(",")
        assert (step, tokens) == (step_expected, tokens_expected)
        assert float(loss) == pytest.approx(float(loss_expected), abs=1e-4)


def test_two_processes_train_the_weights_of_one(tmp_path, ckpt, one_process):
    """LoRA and all weights, data-parallel and sharded, activations kept and recomputed."""
    cases = ["ldk", "lsk", "lsr", "fdr", "fsk", "fsr"]
    run_job(2, tmp_path, ckpt, *cases)
    for case in cases:
        assert_equal_training(tmp_path / case, one_process)


def test_a_training_of_three_processes_goes_on_with_one(tmp_path, ckpt, one_process):
    """Three do not share out 5 rows evenly, nor 32 rows of a matrix; one process has no shards."""
    run_job(3, tmp_path, ckpt, "ldk4", "fsk7", "lsk")
    assert_equal_training(tmp_path / "lsk", one_process)
    (tmp_path / "fsk").rename(tmp_path / "fdk")
    for case, step in ("ldk", "4"), ("fdk", "7"):
        with safetensors.safe_open(tmp_path / case / "state.safetensors", "pt") as state:
            assert state.metadata()["step"] == step
        job.train_case(tmp_path, ckpt, case)
        assert_equal_training(tmp_path / case, one_process)


# The whole command


def assert_equal_runs(run, one):
    """Candidates token for token, targets, scores; weights within 1e-5, log-probabilities too."""
    found, expected = kill.outputs(run), kill.outputs(one)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(".safetensors"):
            a, b = (safetensors.torch.load_file(path / name) for path in (one, run))
            assert a.keys() == b.keys()
            assert all((a[key] - b[key]).abs().max() < 1e-5 for key in a), name
        elif not name.endswith("train.csv"):
            assert found[name] == value, name
    for a, b in zip(*(read_rows(path / "candidates.jsonl") for path in (one, run)), strict=True):
        assert a["gold_logprob"] == pytest.approx(b["gold_logprob"], abs=1e-3)
        assert a["own"]["logprob"] == pytest.approx(b["own"]["logprob"], abs=1e-3)
    items = []
    for path in (one, run):
        rows = read_rows(path / "bench.jsonl")
        items.append({(row["model"], row["id"]): row["logprobs"] for row in rows})
    assert items[0].keys() == items[1].keys() and len(items[0]) == 27
    for key, logprobs in items[0].items():
        assert items[1][key] == pytest.approx(logprobs, abs=1e-3)
    left = [file.name for file in run.rglob("*") if re.search(r"\.\d+\.jsonl$|tmp$", file.name)]
    assert not left + list(run.rglob("state.safetensors"))


def test_two_processes_with_shards_give_what_one_gives(tmp_path, whole, arguments):
    out = tmp_path / "run"
    done = kill.finish([*arguments, "--fsdp", "--recompute"], out, processes=2)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(out, whole[1])
    assert len(done.stdout.splitlines()) == 1  # one process speaks for all
    found = json.loads(done.stdout)
    assert found["scores"] == json.loads(whole[0].stdout)["scores"]


def test_a_process_that_dies_ends_the_job_and_others_go_on(tmp_path, whole, arguments):
    """Kill -9 of one of three processes, then of one of two, then a single one goes on."""
    out = tmp_path / "run"
    for mark, processes, rank in ("own: 0 of", 3, 1), ("train s3ft", 2, 0):
        code, said = kill.interrupt(arguments, out, mark, signal.SIGKILL, processes, rank)
        assert code == 1 and not kill.workers(out), said  # nobody hangs
    assert f"{out}: continues where it stopped" in said
    figures(*arguments, "--out", out)
    assert_equal_runs(out, whole[1])


def test_an_error_of_all_processes_is_said_once(tmp_path, arguments):
    (tmp_path / "ckpt").mkdir()
    done = kill.finish([*arguments, "--ckpt", tmp_path / "ckpt"], tmp_path / "run", processes=2)
    said = [line for line in done.stderr.splitlines() if line.startswith("s3ft.py: ")]
    assert done.returncode == 1 and len(said) == 1 and "ckpt/config.json" in said[0], done.stderr
    assert not (tmp_path / "run").exists()


# Pieces


def test_items_are_shared_out_once_and_evenly(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", rank)
        parts.append(parallel.mine(list(range(23))))
    assert sorted(sum(parts, [])) == list(range(23))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_journals_of_several_processes_become_one(tmp_path):
    """Torn last lines are cut off; what was added later counts; other files are let alone."""
    Journal(tmp_path / "j.jsonl").add("old", own={"text": "x"})
    rows = {}
    for rank in (0, 1, 2):
        with open(tmp_path / f"j.{rank}.jsonl", "w") as file:
            for n in range(rank, 30, 3):
                rows[str(n)] = {"id": str(n), "own": {"n": n}, "gold": "é"}
                early = {"id": str(n), "own": {"n": -1}}
                file.write(f"{json.dumps(early)}\n{json.dumps(rows[str(n)])}\n")
            file.write('{"id": "torn')
    (tmp_path / "j.sft.jsonl").write_text("another file\n")
    expected = {"old": {"id": "old", "own": {"text": "x"}}, **rows}
    assert Journal(tmp_path / "j.jsonl").rows == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j.jsonl", "j.sft.jsonl"]
    assert Journal(tmp_path / "j.jsonl").rows == expected


def test_free_memory_heeds_the_limit_of_a_container(monkeypatch):
    limit = "/sys/fs/cgroup/memory.max"
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000 kB\n", limit: "600000\n"}
    monkeypatch.setattr(parallel.Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(parallel.Path, "read_text", lambda path: files[str(path)])
    assert parallel.free_memory() == 600_000
    files[limit] = "max\n"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert parallel.free_memory() == 1_024_000 // 4
    files.clear()
    assert parallel.free_memory() > 2**24
