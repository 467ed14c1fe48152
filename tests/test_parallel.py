"""One process and several give the same; one that dies ends the job with a line; another number of processes goes on. Over gloo."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import job
import kill
import model as llama
import parallel
import pytest
import s3ft
import safetensors.torch
import tiny
import torch
import torch.distributed as dist
from files import InputError, Journal
from test_s3ft import ROOT, ROWS, RUN, s3ft_command

RUN = [*RUN, "--bench", "hellaswag", "--bench-limit", 9]


def torchrun(n, *command):
    """The command line of a job of n processes; each gets one thread."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *map(str, command)]


def run(n, *command):
    """The finished job; a hang is an error."""
    return subprocess.run(torchrun(n, *command), capture_output=True, text=True, timeout=300)


# -------------------------------------------------------------------------------------------------------------------- training

@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """(folder, checkpoint): LoRA and all weights, trained here."""
    folder = tmp_path_factory.mktemp("one")
    ckpt = tiny.checkpoint(folder / "ckpt", "smollm2")
    for case in ("ldk", "fdk"):
        assert job.train(folder, ckpt, case)
    return folder, ckpt


def assert_equal_weights(folder, case, one):
    """Merged weights after 20 steps within 1e-5 of those of one process, and the same losses of the same batches."""
    expected, found = (safetensors.torch.load_file(d / "model/model.safetensors") for d in (one / f"{case[0]}dk", folder / case))
    assert expected.keys() == found.keys()
    for name in expected:
        assert (expected[name] - found[name]).abs().max() < 1e-5, name
    logs = [[line.split(",") for line in (d / "arm/train.csv").read_text().splitlines()[1:]] for d in (one / f"{case[0]}dk", folder / case)]
    assert [row[4] for row in logs[0]] == [row[4] for row in logs[1]] and len(logs[1]) == 20                # tokens of each step
    assert [float(row[1]) for row in logs[1]] == pytest.approx([float(row[1]) for row in logs[0]], abs=1e-4)


@pytest.mark.parametrize("n", [2, 3])
def test_training_on_several_processes_gives_the_weights_of_one(tmp_path, one_process, n):
    one, ckpt = one_process
    done = run(n, ROOT / "tests/job.py", tmp_path, ckpt, *(cases := ["ldk", "lsk", "fdk", "fsk"] + (["lsr", "fsr", "ldr"] if n == 2 else [])))
    assert done.returncode == 0, done.stderr
    for case in cases:
        assert_equal_weights(tmp_path, case, one)


def test_training_goes_on_with_another_number_of_processes(tmp_path, one_process):
    """Ctrl-C reaches one of two processes at step 7; three go on to step 12, and one, without shards, to the end."""
    one, ckpt = one_process
    for n, stop in ((2, 7), (3, 5)):
        done = run(n, ROOT / "tests/job.py", tmp_path, ckpt, f"ldk{stop}", f"fsk{stop}")
        assert done.returncode == 0, done.stderr
    with safetensors.safe_open(tmp_path / "fsk/arm/state.safetensors", "pt") as state:
        assert state.metadata()["step"] == "12"
    (tmp_path / "fsk").rename(tmp_path / "fdk")
    for case in ("ldk", "fdk"):
        assert job.train(tmp_path, ckpt, case)
        assert_equal_weights(tmp_path, case, one)


def test_a_team_computes_the_logits_of_one_process(tmp_path):
    """Heads and MLP divided: biases before and after the sum, norms of q and k, tied and untied heads, windows."""
    families = ("smollm2", "llama-biases", "qwen3", "qwen2-window", "mistral")
    expected = {family: job.logits(tiny.checkpoint(tmp_path / family, family))[0] for family in families}
    done = run(2, ROOT / "tests/job.py", tmp_path, "logits")
    assert done.returncode == 0, done.stderr
    for family in families:
        found = safetensors.torch.load_file(tmp_path / family / "logits")["logits"]
        torch.testing.assert_close(found, expected[family], atol=1e-4, rtol=1e-4, msg=family)


def test_heads_that_a_team_cannot_divide_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "TEAM", 3)
    with pytest.raises(InputError, match="cannot be divided by --tensor-parallel 3"):
        llama.load(tiny.checkpoint(tmp_path))


def test_rows_are_shared_out_by_tokens():
    for n in (1, 2, 3, 7, 20):
        lists = s3ft.share_out(ROWS, n)
        assert sorted(map(repr, (row for rows in lists for row in rows))) == sorted(map(repr, ROWS)) and len(lists) == n
        load = [sum(len(p) + len(t) for p, t in rows) for rows in lists]
        assert max(load) - min(load) <= max(len(p) + len(t) for p, t in ROWS)


# ----------------------------------------------------------------------------------------------------------------- work and files

def test_pieces_cover_all_items_once_whoever_is_slow(monkeypatch):
    """Two processes, here threads, with clients of one store: while one is busy with its first piece, the other gets the rest."""
    monkeypatch.setattr(parallel, "SIZE", 2)
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    taken, ready, both, rest = ([], []), [], threading.Barrier(2), threading.Event()
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "calls", iter([5]))                    # the same tally in both
        monkeypatch.setattr(parallel, "store", server.clone())
        ready.append(parallel.pieces(list(range(23)), 2))

    def work(rank):
        for part in ready[rank]:
            taken[rank].append(part)
            if len(taken[rank]) == 1:
                both.wait(60)
                assert rank == 0 or rest.wait(60)
        rest.set()
    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken[0] + taken[1]) == [list(range(a, min(a + 2, 23))) for a in range(0, 23, 2)] and len(taken[1]) == 1


def test_journals_of_several_processes_become_one(tmp_path, monkeypatch):
    """Parts are read in any number, torn lines and all; what a later part adds to a row is kept; nothing is left beside the file."""
    rows, draw = {}, random.Random(0)
    Journal(tmp_path / "j.jsonl").add("old", kind={"text": "x"})
    for rank in (0, 1, 2):
        with open(tmp_path / f"j.{rank}.jsonl", "w", encoding="utf-8") as file:
            for n in range(rank, 30, 3):
                rows[str(n)] = {"id": str(n), "a": {"n": n}, "b": draw.random()}
                file.write(json.dumps({"id": str(n), "a": {"n": -1}}) + "\n" + json.dumps(rows[str(n)]) + "\n")
            file.write('{"id": "torn')
    (tmp_path / "j.sft.jsonl").write_text("another file\n")
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.rows == {"old": {"id": "old", "kind": {"text": "x"}}, **rows}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j.jsonl", "j.sft.jsonl"] and Journal(tmp_path / "j.jsonl").rows == journal.rows


def test_free_memory_heeds_the_limit_of_a_container(monkeypatch):
    group = "/sys/fs/cgroup/memory"
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000 kB\n", f"{group}.max": "600000\n", f"{group}.current": "400000\n",
             f"{group}.stat": "anon 100000\ninactive_file 300000\nactive_file 9\n"}
    monkeypatch.setattr(parallel.Path, "exists", lambda path: str(path) in files)
    monkeypatch.setattr(parallel.Path, "read_text", lambda path: files[str(path)])
    cpu = torch.device("cpu")
    free = [parallel.free_memory(cpu)]
    files[f"{group}.max"] = "max\n"
    free.append(parallel.free_memory(cpu))
    monkeypatch.setattr(parallel, "LOCAL_SIZE", 4)
    free.append(parallel.free_memory(cpu))
    files.clear()
    assert free == [500_000, 1_024_000, 256_000] and parallel.free_memory(cpu) > 2 ** 25


def test_a_model_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    ckpt = tiny.checkpoint(tmp_path / "ckpt")
    size = sum(t.nbytes for t in safetensors.torch.load_file(ckpt / "model.safetensors").values())
    monkeypatch.setattr(parallel, "free_memory", lambda device: size)
    llama.load(ckpt)
    monkeypatch.setattr(parallel, "free_memory", lambda device: size - 1)
    llama.load(ckpt, torch.bfloat16)
    with pytest.raises(InputError, match="the weights need .* GB as float32"):
        llama.load(ckpt)


# --------------------------------------------------------------------------------------------------------------- the whole command

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(options, run directory) of one process, with a benchmark."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "data/hellaswag").mkdir(parents=True)
    (folder / "data/hellaswag/hellaswag_val.jsonl").write_text("".join(json.dumps(
        {"ctx_a": f"A cat sees {n} mice.", "ctx_b": "it", "ctx": f"A cat sees {n} mice. it", "activity_label": "Cats", "label": n % 4,
         "endings": ["runs.", "sleeps all day.", f"eats {n} of them.", "flies."]}) + "\n" for n in range(12)))
    ckpt = tiny.checkpoint(folder / "ckpt", max_position_embeddings=2048)
    args = [*RUN, "--bench-data", folder / "data", "--ckpt", ckpt]
    done = s3ft_command(*args, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return args, folder / "run"


def assert_equal_runs(run, one):
    """Candidates token for token, targets, scores; weights within 1e-5 and log-probabilities too."""
    found, expected = kill.outputs(run), kill.outputs(one)
    assert found.keys() == expected.keys()
    for name in expected:
        if name.endswith(".safetensors"):
            a, b = (safetensors.torch.load_file(d / name) for d in (one, run))
            assert a.keys() == b.keys() and all((a[k].float() - b[k].float()).abs().max() < 1e-5 for k in a), name
        elif not name.endswith("train.csv"):
            assert found[name] == expected[name], name
    rows = [[json.loads(line) for line in (d / "candidates.jsonl").read_text().splitlines()] for d in (one, run)]
    for a, b in zip(*rows, strict=True):
        for name in ("gold_logprob", "paraphrase_logprob"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-3)
        assert a["self"]["logprob"] == pytest.approx(b["self"]["logprob"], abs=1e-3)
    rows = [{(r["model"], r["id"]): r["logprobs"] for r in map(json.loads, (d / "bench.jsonl").read_text().splitlines())} for d in (one, run)]
    assert rows[0].keys() == rows[1].keys() and len(rows[0]) == 27
    for key, values in rows[0].items():
        assert rows[1][key] == pytest.approx(values, abs=1e-3)
    assert not [f for f in run.rglob("*") if re.search(r"\.\d+\.jsonl$|\.tmp$|state.safetensors$", f.name)]


@pytest.mark.parametrize("n, options", [(3, ()), (2, ("--fsdp", "--recompute")), (4, ("--fsdp", "--tensor-parallel", "2"))])
def test_several_processes_give_what_one_gives(tmp_path, whole, n, options):
    args, one = whole
    done = run(n, ROOT / "s3ft.py", *args, *options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "run", one)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert len(done.stdout.splitlines()) == 1 and len(figures["peak_gb_by_process"]) == n and f"{n} processes" in done.stderr


def start_and_wait(n, args, out, mark):
    """A running job that has said `mark` on stderr."""
    process = subprocess.Popen(torchrun(n, ROOT / "s3ft.py", *args, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = b""
    while mark.encode() not in seen:
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, seen.decode()
        seen += chunk
    return process


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are found by /proc")
@pytest.mark.parametrize("mark, rank", [("self, ", 1), ("train s3ft", 0)])
def test_a_process_that_dies_ends_the_job_and_the_rest_can_go_on(tmp_path, whole, mark, rank):
    """The line names it. Two processes, or one, go on where three stopped."""
    args, one = whole
    process = start_and_wait(3, args, tmp_path / "run", mark)
    os.kill(kill.workers(tmp_path / "run")[rank], signal.SIGKILL)
    said = process.communicate(timeout=90)[1].decode()
    ours = [line for line in re.split("[\r\n]+", said) if line.startswith("s3ft.py: ")]
    assert ours == [f"s3ft.py: process {rank} of 3 has died; the same command goes on from what is saved"], said
    assert process.returncode == 1 and not kill.workers(tmp_path / "run")
    last = run(2, ROOT / "s3ft.py", *args, "--out", tmp_path / "run") if rank else s3ft_command(*args, "--out", tmp_path / "run")
    assert last.returncode == 0 and "continues where it stopped" in last.stderr, last.stderr
    assert_equal_runs(tmp_path / "run", one)


def test_an_error_of_all_processes_is_said_once(tmp_path, whole):
    (tmp_path / "ckpt").mkdir()
    done = run(2, ROOT / "s3ft.py", *whole[0], "--ckpt", tmp_path / "ckpt", "--out", tmp_path / "run")
    ours = [line for line in done.stderr.splitlines() if line.startswith("s3ft.py: ")]
    assert done.returncode == 1 and len(ours) == 1 and "config.json: no such file" in ours[0] and not (tmp_path / "run").exists()


def test_ctrl_c_ends_the_job_and_loses_nothing(tmp_path, whole):
    args, one = whole
    process = start_and_wait(2, args, tmp_path / "run", "train sft")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[1].decode()
    assert said.count("s3ft.py: interrupted; the same command goes on from here") == 1 and "has died" not in said, said
    assert (tmp_path / "run/sft/state.safetensors").exists()
    last = run(2, ROOT / "s3ft.py", *args, "--out", tmp_path / "run")
    assert last.returncode == 0 and "training goes on after step" in last.stderr, last.stderr
    assert_equal_runs(tmp_path / "run", one)


def test_ctrl_c_where_one_process_leaves_before_the_others_is_no_death(tmp_path):
    process = subprocess.Popen(torchrun(2, ROOT / "tests/job.py", tmp_path, "early"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[1].decode()
    assert said.count("s3ft.py: interrupted; the same command goes on from here") == 1 and "has died" not in said, said
