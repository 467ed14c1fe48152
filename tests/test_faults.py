"""Nothing lost and nothing silent: bad checkpoints, full disks, locks, rights."""

import os
import pickle
import re
import shutil
import subprocess
import sys

import faults
import kill
import pytest
import tiny
import torch
from test_s3ft import command, figures

import model as llama
from data import user
from files import lock

MEND = re.compile("; .*(mend|download|use |set |save |name |convert )")


# Checkpoints


@pytest.mark.parametrize("fault", faults.CHECKPOINTS)
def test_a_bad_checkpoint_is_named_in_one_line_with_a_mend(tmp_path, monkeypatch, fault):
    for module, name in (pickle, "load"), (pickle, "loads"), (torch, "load"):
        monkeypatch.setattr(module, name, None)  # a pickle is never opened
    damage, words = faults.CHECKPOINTS[fault]
    message = faults.message(damage, tmp_path)
    assert message.startswith("CKPT") and words in message
    assert "\n" not in message and MEND.search(message)


def test_what_is_odd_but_fine_loads(tmp_path):
    """More embedding rows than tokens, a link, an index of paths, what old files computed."""
    path = tiny.checkpoint(tmp_path / "ckpt", "llama3", template=None, vocab_size=320)
    faults.tensor("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(2))(path)
    faults.index("../../a.safetensors")(path)
    (tmp_path / "link").symlink_to(path)
    model, tokenizer = llama.load(tmp_path / "link")
    assert model(torch.tensor([tokenizer.prompt_ids(user("x"))])).shape[-1] == 320


# The run directory


def test_a_run_directory_is_for_one_run_and_the_lock_dies_with_it(tmp_path, arguments):
    out = tmp_path / "run"
    (out / "sft/.model.77.tmp").mkdir(parents=True)
    (out / "sft/.model.77.tmp/.config.json.77.tmp").touch()
    hold = f"from pathlib import Path; from files import lock; held = lock(Path({str(out)!r}))"
    code = f"{hold}; print(1, flush=True); import time; time.sleep(99)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=kill.ROOT)
    owner.stdout.readline()
    assert not list(out.rglob("*.tmp"))  # what a killed run left half-written

    code, _, said = command(*arguments, "--out", out)
    assert code == 2 and said[-1].startswith(f"s3ft.py: {out}: another run is at work there; ")
    assert sorted(os.listdir(out)) == [".lock", "sft"]
    owner.kill()
    owner.wait()
    lock(out).close()


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of so many kilobytes, or gives it another size."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()

    def mount(kilobytes):
        options = ",".join([*mounted, f"size={kilobytes}k"])
        argv = ["mount", "-t", "tmpfs", "-o", options, "s3ft-test", folder]
        if not shutil.which("mount") or subprocess.run(argv, capture_output=True).returncode:
            pytest.skip("no tmpfs can be mounted here")
        mounted[:] = ["remount"]
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", folder])


@pytest.mark.parametrize("kilobytes", [24, 400])  # full in the journals, in a checkpoint
def test_a_full_disk_is_one_line_and_the_run_goes_on_with_room(disk, whole, arguments, kilobytes):
    out = disk(kilobytes) / "run"
    code, _, said = command(*arguments, "--out", out)
    assert code == 2 and said[-1].startswith("s3ft.py: ") and "goes on" in said[-1]
    assert re.search("No space left|os error 28|code: 28", said[-1])
    assert not list(out.rglob("*.tmp"))
    disk(20_000)
    figures(*arguments, "--out", out)
    assert kill.outputs(out) == kill.outputs(whole[1])


def test_files_get_the_usual_rights(whole):
    mask = os.umask(0)
    os.umask(mask)
    for file in whole[1].rglob("*"):
        if file.is_file() and file.name != ".lock":
            assert file.stat().st_mode & 0o777 == 0o666 & ~mask, file
