"""Nothing lost, nothing silent: bad checkpoints, bad data, full disks, locks, Ctrl-C, hostile text. The tables are in faults.py."""
import contextlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import faults
import judges
import kill
import model as llama
import pytest
import tiny
import torch
from files import InputError, lock
from test_s3ft import ROOT, RUN, s3ft_command

# ------------------------------------------------------------------------------------------------------------- bad checkpoints


MEND = re.compile(r"; .*(mend|download|use |remove|set |save |replaces)|is needed \(README")


@pytest.mark.parametrize("fault", faults.CHECKPOINTS)
def test_a_bad_checkpoint_is_named(tmp_path, monkeypatch, fault):
    def opened(*_, **__):
        raise AssertionError("a pickle was opened")
    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, opened)
    if "never ends" in fault:
        deadline = llama.deadline
        monkeypatch.setattr(llama, "deadline", lambda seconds: deadline(0.5))
    message = faults.checkpoint_message(faults.CHECKPOINTS[fault], tmp_path)
    assert message and "CKPT" in message and "\n" not in message.strip() and MEND.search(message), message


def test_what_is_odd_but_fine_loads(tmp_path):
    """No chat template, more embedding rows than tokens, a directory behind a link."""
    path = tiny.checkpoint(tmp_path / "ckpt", template=None, vocab_size=320)
    (tmp_path / "link").symlink_to(path)
    model, tokenizer = llama.load(tmp_path / "link")
    assert model.head(model.hidden(torch.tensor([tokenizer.prompt_ids("x")]))).shape[-1] == 320


def test_a_directory_without_rights(tmp_path):
    """As another user, where there is one to become."""
    path = tiny.checkpoint(tmp_path / "ckpt")
    path.chmod(0)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os, model\nif os.getuid() == 0: os.setuid(65534)\nmodel.load({str(path)!r})"
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o111)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(f"(InputError|PermissionError).*{path}", run.stderr.splitlines()[-1]), run.stderr


# -------------------------------------------------------------------------------------------------------------------- bad data

@pytest.mark.parametrize("task, fault", faults.DATA)
def test_bad_data_is_named_by_file_and_line(tmp_path, task, fault):
    content, line = faults.DATA[task, fault]
    message = faults.data_message(task, content, tmp_path)
    place = faults.FILES[task] + (f": row {line}: " if task == "nq" and line else f":{line}: " if line else ": ")
    assert message and message.startswith(place) and MEND.search(message) and (len(message.splitlines()) == 1 or fault == "UTF-16"), message


@pytest.mark.parametrize("task, row, key", [("gsm8k", faults.GSM8K, "answer"), ("mbpp", faults.MBPP, "code"), ("own", faults.OWN, "gold")])
def test_all_faults_of_a_file_are_listed_up_to_ten(tmp_path, task, row, key):
    bad = [faults.as_bytes(row, **{key: ""}), b"{", faults.as_bytes(row, **{key: 3})]
    message = faults.data_message(task, faults.lines(row, *bad)[0], tmp_path).splitlines()
    assert [re.match(rf"{faults.FILES[task]}:(\d+): ", line)[1] for line in message] == ["3", "4", "5"]
    message = faults.data_message(task, faults.lines(row, *bad * 4)[0], tmp_path).splitlines()
    assert len(message) == 11 and message[9].startswith(f"{faults.FILES[task]}:12: ") and message[10].startswith("…")


@pytest.mark.parametrize("task, row", [("gsm8k", faults.GSM8K), ("mbpp", faults.MBPP), ("own", faults.OWN)])
def test_byte_order_mark_line_ends_and_blank_lines_are_fine(tmp_path, task, row):
    content = b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\r\n  \n"
    assert faults.data_message(task, content, tmp_path) is None and len(faults.read(task, tmp_path)) == 1


def test_golds_that_the_judge_does_not_accept_are_listed(tmp_path):
    rows = [{"prompt": f"p {n}", "gold": f"The answer is {n}.", "answer": str(n + (n % 2))} for n in range(30)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = s3ft_command("--task", tmp_path / "t.jsonl", "--ckpt", tiny.checkpoint(tmp_path / "ckpt"), "--max-new-tokens", 9, "--out", tmp_path / "run")
    named = re.findall(r"t\.jsonl: t\.jsonl:(\d+): the judge does not accept", run.stderr)
    assert run.returncode == 2 and len(named) == 10 and all(int(n) % 2 == 0 for n in named) and "… and 5 more" in run.stderr


def test_what_is_too_long_is_counted(tmp_path):
    path = tiny.checkpoint(tmp_path / "ckpt", max_position_embeddings=600)
    rows = [{"prompt": "p" * (5_000_000 if n == 3 else 20), "gold": "yes"} for n in range(12)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    run = s3ft_command("--task", tmp_path / "t.jsonl", "--test", tmp_path / "test.jsonl", "--ckpt", path, "--max-new-tokens", 9, "--method", "sft",
                       "--epochs", 1, "--out", tmp_path / "run")
    assert run.returncode == 0 and "1 train examples do not fit" in run.stderr, run.stderr
    assert json.loads(run.stdout)["left_out"] == {"train": 1, "test": 0, "sft, without a target": 0}


def test_what_becomes_no_target_is_counted_by_reason(tmp_path, whole):
    """Every candidate, and every example that a method leaves out."""
    shutil.copytree(whole[1], tmp_path / "run")
    run = s3ft_command(*RUN, "--method", "self,s3ft", "--ckpt", whole[0], "--out", tmp_path / "run")
    assert run.returncode == 2 and "self: 10 of 10 examples have no target and are left out" in run.stderr, run.stderr
    rows = [json.loads(line) for line in (whole[1] / "candidates.jsonl").read_text().splitlines()]
    unfinished = sum(row["self"]["finish"] != "stop" for row in rows)
    assert f"self: {unfinished} unfinished, {10 - unfinished} judged wrong" in run.stderr and "10 of 220 training and 4 of" in run.stderr


# ------------------------------------------------------------------------------------- the run directory: locks, Ctrl-C, full disks

def test_a_run_directory_is_for_one_run_and_the_lock_dies_with_it(tmp_path):
    (tmp_path / "run/sft/.model.77.tmp").mkdir(parents=True)
    (tmp_path / "run/sft/.model.77.tmp/.config.json.77.tmp").touch()
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from files import lock; f = lock({str(tmp_path / 'run')!r}); print(1, flush=True); time.sleep(99)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    owner.stdout.readline()
    assert not list((tmp_path / "run").rglob("*.tmp"))                       # what a killed run left half-written
    with pytest.raises(InputError, match="another run is at work there"):
        lock(tmp_path / "run")
    owner.kill()
    owner.wait()
    lock(tmp_path / "run").close()


def test_a_second_run_is_refused_and_harms_nothing(tmp_path):
    ckpt = tiny.checkpoint(tmp_path / "ckpt", max_position_embeddings=2048)
    held = lock(tmp_path / "run")
    run = s3ft_command(*RUN, "--ckpt", ckpt, "--out", tmp_path / "run")
    held.close()
    assert run.returncode == 2 and "another run is at work" in run.stderr.splitlines()[-1] and os.listdir(tmp_path / "run") == [".lock"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(checkpoint, directory) of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    ckpt = tiny.checkpoint(folder / "ckpt", max_position_embeddings=2048)
    run = s3ft_command(*RUN, "--ckpt", ckpt, "--out", folder / "run")
    assert run.returncode == 0, run.stderr
    return ckpt, folder / "run"


@pytest.mark.parametrize("mark", ["self", "train sft", "s3ft: "])
def test_ctrl_c_says_one_line_and_loses_nothing(tmp_path, whole, mark):
    process = subprocess.Popen([sys.executable, "-u", ROOT / "s3ft.py", *RUN, "--ckpt", whole[0], "--out", tmp_path / "run"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = b""
    while mark.encode() not in seen:
        seen += os.read(process.stderr.fileno(), 4096)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read().decode()
    assert process.wait() == 130 and "Traceback" not in rest
    assert rest.splitlines()[-1] == "s3ft.py: interrupted; the same command goes on from here"
    assert not list((tmp_path / "run").rglob("*.tmp"))
    if mark == "train sft":
        assert (tmp_path / "run/sft/state.safetensors").exists()
    last = s3ft_command(*RUN, "--ckpt", whole[0], "--out", tmp_path / "run")
    assert last.returncode == 0 and kill.outputs(tmp_path / "run") == kill.outputs(whole[1])


def test_a_second_ctrl_c_ends_at_once():
    code = (f"import sys, signal, os, time; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['s3ft.py']; import s3ft\n"
            "with s3ft.interrupt_later() as noted:\n os.kill(os.getpid(), signal.SIGINT)\n assert noted\n print('noted', flush=True)\n"
            " os.kill(os.getpid(), signal.SIGINT)\n time.sleep(9)\n print('still here')")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -signal.SIGINT and run.stdout == "noted\n"


@pytest.fixture
def disk(tmp_path):
    """A function: mount a disk of so many bytes at tmp_path/disk, or change the mounted one; skipped where none can be mounted."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()

    def mount(options):
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", f"remount,{options}" if mounted else options, "s3ft-test", str(folder)], capture_output=True)
        if run.returncode:
            pytest.skip("no tmpfs can be mounted here")
        mounted.append(options)
        return folder
    if shutil.which("mount") is None:
        pytest.skip("no mount")
    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(folder)])


@pytest.mark.parametrize("kilobytes", [4, 24, 64, 140, 240, 400])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(disk, whole, kilobytes):
    folder = disk(f"size={kilobytes}k")
    full = s3ft_command(*RUN, "--ckpt", whole[0], "--out", folder / "run")
    assert full.returncode == 2 and "Traceback" not in full.stderr, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("s3ft.py: ") and re.search("No space left|os error 28|code: 28", last), full.stderr
    assert not list((folder / "run").rglob("*.tmp"))
    disk("size=20m")
    again = s3ft_command(*RUN, "--ckpt", whole[0], "--out", folder / "run")
    assert again.returncode == 0 and kill.outputs(folder / "run") == kill.outputs(whole[1]), again.stderr


def test_a_read_only_folder_is_one_line(disk, whole):
    folder = disk("size=20m")
    disk("ro")
    run = s3ft_command(*RUN, "--ckpt", whole[0], "--out", folder / "run")
    assert run.returncode == 2 and "Read-only file system" in run.stderr.splitlines()[-1] and "Traceback" not in run.stderr


def test_files_get_the_usual_rights(whole):
    for file in whole[1].rglob("*"):
        assert file.name == ".lock" or file.is_dir() or file.stat().st_mode & 0o777 == 0o666 & ~umask(), file


def umask():
    os.umask(mask := os.umask(0))
    return mask


# ---------------------------------------------------------------------------------------------------------------- hostile text

def test_judges_on_arbitrary_text():
    """No exception; the long form, with times, is `python tests/faults.py fuzz 100000`."""
    assert faults.fuzz(1500).keys() > judges.JUDGES.keys() - {"code", "model"}


def test_no_text_opens_a_turn(tmp_path):
    """Text of pieces of special tokens and of the template gives the same turns as text of letters."""
    _, tokenizer = llama.load(tiny.checkpoint(tmp_path))
    draw, specials = random.Random(0), set(tokenizer.special.values())
    expected = [i for i in tokenizer.prompt_ids("x") if i in specials]
    for _ in range(300):
        text = "".join(draw.choice(["<|turn|>", "<|end|>", "<|tu", "rn|>", "<", "|", ">", "user\n", "assistant\n", "x", "\n", "{{", "}}", "<|begin|>"])
                       for _ in range(draw.randrange(12)))
        ids = tokenizer.prompt_ids(text)
        assert [i for i in ids if i in specials] == expected and text.strip() in tokenizer.tok.decode(ids, skip_special_tokens=False)


def test_a_deadline_ends_a_loop_and_leaves_no_clock_behind():
    with pytest.raises(TimeoutError), llama.deadline(0.05):
        while True:
            time.sleep(0.01)
    with llama.deadline(0.05):
        pass
    time.sleep(0.1)                                                          # the clock was stopped
