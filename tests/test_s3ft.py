"""s3ft.py: the choice of targets, runs of every kind, continuing them, the command line."""

import contextlib
import gc
import io
import json
import re
import shutil
import signal
import sys
import weakref
from types import SimpleNamespace

import job
import kill
import pytest
import tiny
import torch
from conftest import write_rows

import judges
import model as llama
import s3ft
import sampler
from data import Example, user
from files import InputError
from journal import Journal

SAMPLE = kill.ROOT / "data/sample"


def options(**changes):
    found = s3ft.fill_defaults(s3ft.parse(["--task", "gsm8k", "--ckpt", "x", "--device", "cpu"]))
    vars(found).update({"dtype": torch.float32, **changes})
    return found


def command(*args):
    """The command in this process: (exit code, stdout, lines on stderr)."""
    out, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(sys, "argv", ["s3ft.py", *map(str, args)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            with pytest.raises(SystemExit) as leaving:
                s3ft.main()
    code = leaving.value.code
    del leaving
    gc.collect()  # closes the lock
    return code, out.getvalue(), re.split("[\r\n]+", said.getvalue().strip())


def figures(*args):
    """(the line on stdout, lines on stderr) of a run that ends well."""
    code, out, said = command(*args)
    assert code == 0, said
    return json.loads(out), said


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Methods


def response(text, correct=True):
    judged = {"finish_reason": "stop", "correct": correct, "reason": ""}
    return {"text": text, "ids": [ord(text), tiny.END], "logprob": -1.0, **judged}


def candidates(**responses):
    return {"id": "1", "messages": user("x"), "gold": "g", "gold_ids": [103, tiny.END], **responses}


TABLE = [  # both are right, own alone, the paraphrase alone, neither
    candidates(own=response("o", own), paraphrase=response("p", paraphrase))
    for own, paraphrase in ((True, True), (True, False), (False, True), (False, False))
]
EXPECTED = {"sft": "gggg", "ssr": "oogg", "sdft": "pgpg", "self": "oo", "s3ft": "oopg"}
SOURCES = {"g": "gold", "o": "own", "p": "paraphrase"}


@pytest.mark.parametrize("method", EXPECTED)
def test_methods(method):
    targets = s3ft.build_targets(TABLE, method, options())
    assert "".join(target["target"] for target in targets) == EXPECTED[method]
    for target in targets:
        assert target["source"] == SOURCES[target["target"]]
        assert target["ids"] == [ord(target["target"]), tiny.END]  # as sampled


def test_the_substance_of_paraphrases_is_asked_for_only_by_option():
    assert options().filter_paraphrases is False
    copy = candidates(paraphrase=response("g"))
    for filtered, source in (False, "paraphrase"), (True, "gold"):
        (target,) = s3ft.build_targets([copy], "sdft", options(filter_paraphrases=filtered))
        assert target["source"] == source


# Selection


def example(n):
    gold = f"{n}+1 = {n + 1}\n#### {n + 1}"
    return Example(str(n), user(f"prompt {n}"), gold, {"answer": str(n + 1)})


EXAMPLES = [example(n) for n in range(6)]


def says(words, finish_reason="stop", logprob=-3.0):
    return words, finish_reason, logprob


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """A base model that says what the test wants, for prompt n: own[n], samples[seed][n], …"""
    model, tokenizer = llama.load(tiny.checkpoint(tmp_path / "ckpt"))
    script = SimpleNamespace(own={}, paraphrase={}, samples={1: {}, 2: {}}, asked=[])

    def generate(model, tokenizer, prompts, limit, temperature=0, seed=0, on_done=None, **_):
        responses = []
        for i, ids in enumerate(prompts):
            text = tokenizer.decode(ids)
            n = int(text.split("prompt ")[1].split()[0])
            said = script.samples[seed] if temperature else script.own
            if "Reference solution" in text:
                assert EXAMPLES[n].gold in text  # [x; y]
                said = script.paraphrase
            words, finish_reason, logprob = said.get(n, says("The answer is 99."))
            script.asked.append((n, "paraphrase" if said is script.paraphrase else "own"))
            ids = [*tokenizer.encode_text(words), tiny.END]
            responses.append(sampler.Response(ids, words, finish_reason, logprob))
            on_done(i, responses[i])
        return responses

    def select(**changes):
        """(rows of candidates, what was asked for)"""
        script.asked = []
        settings = options(out=tmp_path / "run", **changes)
        rows = s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, settings)
        return rows, sorted(script.asked)

    monkeypatch.setattr(sampler, "generate", generate)
    script.select, script.model, script.tokenizer = select, model, tokenizer
    return script


def test_a_judge_sees_what_follows_the_last_thought(scripted):
    scripted.own = {
        0: says("<think>\nThe answer is 9.\n</think>\n\nThe answer is 1."),
        1: says("<think>\nThe answer is 2."),
        2: says("So 3.\n</think>The answer is 3."),  # the prompt opened the thought
    }
    rows, _ = scripted.select(method=["ssr"])
    own = [row["own"] for row in rows[:3]]
    assert [response["correct"] for response in own] == [True, False, True]
    assert own[1]["finish_reason"] == "thought" and own[1]["reason"] == "unfinished"


def test_selection_follows_the_paper(scripted, tmp_path):
    scripted.own = {0: says("The answer is 1."), 1: says("The answer is 2.", "length")}
    for n in (1, 2, 5):
        scripted.paraphrase[n] = says(f"{n} plus 1 makes it. The answer is {n + 1}.")
    scripted.paraphrase[4] = says("The answer is 5.", "length")
    rows, asked = scripted.select(method=["s3ft", "sft"])
    targets = s3ft.build_targets(rows, "s3ft", options())
    sources = [target["source"] for target in targets]
    assert sources == ["own", "paraphrase", "paraphrase", "gold", "gold", "paraphrase"]
    assert rows[1]["own"]["reason"] == "unfinished"
    own = [(n, "own") for n in range(6)]
    rephrased = [(n, "paraphrase") for n in range(1, 6)]  # none where the model is right
    assert asked == sorted(own + rephrased)

    assert read_rows(tmp_path / "run/candidates.jsonl") == rows
    prompt = scripted.tokenizer.prompt_ids(EXAMPLES[2].messages)
    gold = scripted.tokenizer.target_ids(EXAMPLES[2].messages, EXAMPLES[2].gold)
    texts = [gold, rows[2]["paraphrase"]["ids"]]
    expected = sampler.logprobs(scripted.model, [prompt, prompt], texts)
    found = [rows[2]["gold_logprob"], rows[2]["paraphrase_logprob"]]
    assert found == pytest.approx(expected, abs=1e-3)

    assert scripted.select(method=["s3ft", "sft"]) == (rows, [])  # nothing is asked again
    assert scripted.select(method=["sdft"])[1] == [(0, "paraphrase")]  # the one that lacked


def test_unfinished_is_never_a_target_however_right(scripted):
    for n in range(6):
        scripted.own[n] = scripted.paraphrase[n] = says(f"The answer is {n + 1}.", "length")
    rows, _ = scripted.select(method=["sdft", "s3ft"])
    for method in s3ft.METHODS:
        targets = s3ft.build_targets(rows, method, options())
        assert {target["source"] for target in targets} <= {"gold"}


def test_sft_alone_generates_nothing(scripted):
    assert scripted.select(method=["sft"])[1] == []


def test_of_several_right_responses_the_likeliest_is_the_target(scripted):
    scripted.own = {n: says(f"The answer is {n + 1}.") for n in range(3)}
    for n, logprob in enumerate([-2.0, -4.0, -3.0, -9.0]):
        scripted.samples[1][n] = says(f"Yes.\n#### {n + 1}", logprob=logprob)
    scripted.samples[1][4] = says("#### 5", "length")
    scripted.samples[1][5] = says("Yes.\n#### 6", logprob=None)  # of an engine that gives none
    scripted.samples[2] = {2: says("Wrong.", logprob=-0.1), 3: says("Or.\n#### 4", logprob=-8.0)}
    rows, _ = scripted.select(method=["ssr"], samples=2)
    targets = s3ft.build_targets(rows, "ssr", options(samples=2))
    firsts = [target["target"].split()[0] for target in targets]
    assert firsts == ["Yes.", "The", "The", "Or.", "4+1", "Yes."]  # the greedy one among equals


def test_a_torn_line_and_a_missing_verdict_are_made_good(scripted, tmp_path):
    scripted.own = {n: says(f"The answer is {n + 1}.") for n in range(6)}
    rows, _ = scripted.select(method=["ssr"])
    file = tmp_path / "run/candidates.jsonl"
    unjudged = read_rows(file)  # as a kill between generation and judgement leaves them
    for row in unjudged[:3]:
        del row["own"]["correct"], row["own"]["reason"]
    write_rows(file, unjudged)
    assert scripted.select(method=["ssr"]) == (rows, [])
    file.write_bytes(file.read_bytes()[:-20])
    again, asked = scripted.select(method=["ssr"])
    assert asked == [(5, "own")] and again[:5] == rows[:5]
    assert again[5]["own"] == rows[5]["own"]
    file.write_text('{"id": 1}\n{"id": 2\n{"id": 3}\n')
    with pytest.raises(InputError, match="candidates.jsonl:2: not JSON"):
        Journal(file)


# Whole runs


def test_the_whole_command(whole):
    process, out = whole
    found = json.loads(process.stdout)
    assert found["targets_by_method"]["sft"] == {"own": 0, "paraphrase": 0, "gold": 12}
    assert found["targets"] == {"own": 5, "paraphrase": 0, "gold": 7}
    assert found["generate_tokens_per_second"] > 0 and found["train_tokens_per_second"] > 0
    assert found["scores"].keys() == {"base", "sft", "s3ft"}
    base = found["scores"]["base"]
    assert base["train"]["n"] == 5 and base["hellaswag acc"]["n"] == 9
    assert base["train"]["low"] < base["train"]["score"] == 0.4 < base["train"]["high"]
    assert json.loads((out / "eval.json").read_text()) == found["scores"]
    assert re.search(r"<\|turn\|>assistant\n\[\[.+\|<\|end\|>\]\]", process.stderr)  # --show

    targets, rows = read_rows(out / "s3ft/targets.jsonl"), read_rows(out / "candidates.jsonl")
    for target, row in zip(targets[:5], rows):
        assert target["ids"] == row["own"]["ids"] != row["gold_ids"]
    for name in ("config.json", "report.html", "sft/train.csv", "s3ft/model/config.json"):
        assert (out / name).stat().st_size > 0
    benches = [row["bench"] for row in read_rows(out / "bench.jsonl")]
    assert benches.count("hellaswag") == 27 and benches.count("drift") == 15
    adapter = json.loads((out / "s3ft/adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (8, 16, 0.1)
    assert not list(out.rglob("*.tmp")) + list(out.rglob("state.safetensors"))


def test_a_finished_run_is_left_as_it_is(whole, arguments, tmp_path, monkeypatch):
    out = shutil.copytree(whole[1], tmp_path / "run")
    expected = kill.outputs(whole[1])
    monkeypatch.setattr(llama.Transformer, "hidden", None)  # nothing is computed again
    found, said = figures(*arguments, "--out", out)
    assert found["scores"] == json.loads(whole[0].stdout)["scores"]
    assert f"{out}: continues where it stopped" in said and "sft: is trained already" in said
    other = write_rows(tmp_path / "test.jsonl", [{"prompt": "x", "gold": "y"}])
    config = json.loads((out / "config.json").read_text())
    del config["lora_on"]  # as before there was this option
    (out / "config.json").write_text(json.dumps(config))
    for name, value in ("lr", 0.5), ("seed", 1), ("test", other):
        code, _, said = command(*arguments, f"--{name}", value, "--out", out)
        assert code == 2 and f"{out}: was made with {name} = " in said[-1]
        assert "use another --out" in said[-1]
    assert kill.outputs(out) == expected


def test_interruptions_change_nothing(whole, arguments, tmp_path):
    """Ctrl-C and kill -9 while it generates and trains; the same command goes on each time."""
    out = tmp_path / "run"
    for mark, send in (
        ("own: 0 of 12", signal.SIGKILL),
        ("paraphrase: 0 of", signal.SIGINT),
        ("train s3ft", signal.SIGKILL),
    ):
        code, said = kill.interrupt(arguments, out, mark, send)
        if send == signal.SIGINT:
            assert code == 130 and "Traceback" not in said, said
            assert said.count("s3ft.py: interrupted; the same command goes on\n") == 1
            assert not list(out.rglob("*.tmp"))
    figures(*arguments, "--out", out)
    assert kill.outputs(out) == kill.outputs(whole[1])


def test_an_interruption_within_a_constructor_leaves_one_line(monkeypatch):
    class HalfMade:
        def __del__(self):
            raise AttributeError("it has no pos")  # as tqdm's bar

    def run(options):
        half_made = HalfMade()  # noqa: F841
        raise KeyboardInterrupt

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    monkeypatch.setattr(s3ft, "run", run)
    code, _, said = command("--task", "gsm8k", "--ckpt", "x")
    assert (code, said, heard) == (130, ["s3ft.py: interrupted; the same command goes on"], [])


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("ckpt") / "tiny"
    return tiny.checkpoint(path, max_position_embeddings=2048)


@pytest.fixture
def short(ckpt, tmp_path):
    """Options of a short run in tmp_path/run."""
    options = ["--ckpt", ckpt, "--out", tmp_path / "run", "--max-new-tokens", 8, "--epochs", 1]
    return [*options, "--dtype", "float32", "--device", "cpu"]


def test_seeds_are_arms_of_one_selection(short, tmp_path, monkeypatch):
    args = ["--task", "gsm8k", "--data", SAMPLE / "gsm8k", *short, "--seeds", "0,7"]
    models, fine_tune = weakref.WeakSet(), s3ft.fine_tune
    init = llama.Transformer.__init__

    def remember(self, *args):
        models.add(self)
        init(self, *args)

    def alone(*args):
        gc.collect()
        assert not list(models), "another model takes memory"
        fine_tune(*args)

    monkeypatch.setattr(llama.Transformer, "__init__", remember)
    monkeypatch.setattr(s3ft, "fine_tune", alone)
    found, said = figures(*args, "--limit", 6, "--validate", 0.5, "--eval-limit", 2)
    assert found["scores"].keys() == {"base", "s3ft", "s3ft.7"}
    assert "3 training and 2 test examples" in said[0]
    targets, weights = [], []
    for arm in (tmp_path / "run/s3ft", tmp_path / "run/s3ft.7"):
        targets.append(read_rows(arm / "targets.jsonl"))
        weights.append((arm / "model/model.safetensors").read_bytes())
    assert targets[0] == targets[1] and weights[0] != weights[1]
    tested = {row["id"] for row in read_rows(tmp_path / "run/base/eval.jsonl")}
    assert len(tested) == 2 and all(id.startswith("train.jsonl:") for id in tested)
    assert not tested & {target["id"] for target in targets[0]}


def test_full_training_keeps_float32_masters(ckpt, tmp_path, monkeypatch):
    """A weight near 1 in bfloat16 cannot hold an update of 1e-4; the float32 master can."""
    seen, save = {}, llama.save

    def look(model, *args):
        seen.update(model.named_parameters())
        save(model, *args)

    monkeypatch.setattr(llama, "save", look)
    target = {"id": "1", "source": "gold", "messages": user("x"), "target": "y", "ids": [5, 259]}
    changes = {"full": True, "lr": 1e-4, "epochs": 1, "ckpt": ckpt, "dtype": torch.bfloat16}
    patches = job.patched_training(None)  # saves its state
    s3ft.fine_tune([target], "sft", 0, options(out=tmp_path, **changes))
    patches.undo()
    assert not list(tmp_path.rglob("state.safetensors"))
    assert seen and all(p.dtype == torch.float32 for p in seen.values())
    for name, weight in tiny.weights(tiny.config("smollm2")).items():
        if "norm" in name:
            assert (seen[name] != weight).float().mean() > 0.9
    assert json.loads((tmp_path / "sft/model/config.json").read_text())["dtype"] == "bfloat16"


def test_eval_only_with_benchmarks(short, tmp_path):
    for name in ("dev", "test"):
        lines = [f"Question {n} of {name}?,a,b,c,d,B\n" for n in range(3)]
        (tmp_path / "mmlu" / name).mkdir(parents=True)
        (tmp_path / f"mmlu/{name}/art_{name}.csv").write_text("".join(lines))
    (tmp_path / "svamp").mkdir()
    svamp = [{"Body": f"Ann has {n} pens.", "Question": "How many?", "Answer": n} for n in (3, 4)]
    (tmp_path / "svamp/SVAMP.json").write_text(json.dumps(svamp))
    args = ["--task", "nq", "--data", SAMPLE / "nq", *short, "--eval-only", "--eval-limit", 2]
    (tmp_path / "ifeval").mkdir()
    two = [{"prompt": "Hi", "instruction_id_list": ["a:no_comma", "a:title"], "kwargs": [{}, {}]}]
    write_rows(tmp_path / "ifeval/input_data.jsonl", two)
    more = ["--shots", 2, "--bench", "mmlu,svamp,ifeval", "--bench-data", tmp_path]
    found, said = figures(*args, *more)
    assert found["targets"] == {} and found["scores"].keys() == {"base"}
    counts = {name: score["n"] for name, score in found["scores"]["base"].items()}
    assert {"nq": 2, "nq f1": 2, "mmlu acc": 3, "svamp acc": 2}.items() <= counts.items()
    assert counts["ifeval prompt_level_loose_acc"] == 1
    assert counts["ifeval inst_level_strict_acc"] == 2  # a score an instruction
    assert abs(found["scores"]["base"]["drift nats"]["score"]) < 1e-4  # float32
    again, _ = figures(*args, *more)
    assert again["scores"] == found["scores"]
    items = {row["bench"]: row for row in read_rows(tmp_path / "run/bench.jsonl")}
    assert items["mmlu"]["context"].count("of dev?") == 2
    assert "Ann has" in items["svamp"]["context"]


def test_your_own_rows_judged_by_the_model_itself(short, tmp_path):
    rows = [{"prompt": f"Say {n % 9}.", "gold": f"yes {n}"} for n in range(12)]
    task = write_rows(tmp_path / "own.jsonl", rows)
    found, said = figures("--task", task, *short, "--judge", "model")
    assert "judge model" in said[0]
    rows = read_rows(tmp_path / "run/candidates.jsonl")
    assert len(rows) + found["scores"]["base"]["own"]["n"] == 12
    prompts = {row["messages"][0]["content"] for row in rows}
    assert len(prompts) == 7  # two of nine are for testing, wherever they stand
    for row in rows:
        assert re.match("unfinished|log odds|says nothing", row["own"]["reason"])


def test_conversations_of_your_own(short, tmp_path):
    system, said = {"role": "system", "content": "A."}, {"role": "assistant", "content": "yes"}
    rows = []
    for n in range(10):
        before = [system] if n % 2 else []
        rows.append({"messages": [*before, *user(f"Say {n}."), said, *user("And?"), said]})
    task = write_rows(tmp_path / "own.jsonl", rows)
    _, lines = figures("--task", task, *short, "--method", "sft", "--system", "B.")
    assert "from rows with messages: 8 training and 2 test examples, judge label" in lines[0]
    for row in read_rows(tmp_path / "run/candidates.jsonl"):
        even = int(row["messages"][1]["content"][4]) % 2 == 0
        assert row["messages"][0]["content"] == ("B." if even else "A.")
        assert [turn["content"] for turn in row["messages"][2:]] == ["yes", "And?"]
        assert row["gold"] == "yes"


def test_rows_that_do_not_fit_are_left_out(short, tmp_path):
    rows = [{"prompt": "p" * (20_000 if n == 3 else 20), "gold": "yes"} for n in range(9)]
    task = write_rows(tmp_path / "own.jsonl", rows)
    args = ["--task", task, "--test", task, *short, "--method", "sft"]
    code, _, said = command(*args, "--max-new-tokens", 2047)
    assert code == 2 and "no example is left" in said[-1] and not (tmp_path / "run").exists()
    found, said = figures(*args)
    assert found["targets"] == {"own": 0, "paraphrase": 0, "gold": 8}
    assert "1 examples do not fit the model's 2048 tokens" in said


def test_a_choice_of_examples_is_drawn_from_the_seed():
    chosen = [s3ft.sample(list(range(100)), 10, seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and chosen[0] != list(range(10))
    assert chosen[0] == sorted(set(chosen[0])) and len(chosen[0]) == 10


# The command line


@pytest.mark.parametrize(
    "args, words",
    [
        ("--ckpt {no}", "{no}: no such directory"),
        ("--data {no}", "{no}/train.jsonl: no such file"),
        ("--data {bad}", "train.jsonl:2: not JSON"),
        ("--task math", "neither FILE.jsonl nor gsm8k"),
        ("--method sft,dpo", "'dpo' is not one of sft, ssr"),
        ("--judge reading", "--judge"),
        ("--task {own} --judge nobody", "nobody"),
        ("--judge model:{no}", "{no}: no such directory"),
        ("--epochs 0", "'0'"),
        ("--limit 1.5", "'1.5'"),
        ("--lr nan", "'nan'"),
        ("--bench mmlu --bench-data {no}", "python data/fetch.py mmlu"),
        ("--fsdp", "--fsdp goes with torchrun"),
        ("--lora 4", "unrecognized arguments: --lora 4"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(short, tmp_path, args, words):
    names = {"no": tmp_path / "nowhere", "bad": tmp_path / "bad", "own": tmp_path / "own.jsonl"}
    write_rows(names["own"], [{"prompt": "x", "gold": "y"}])
    bad = write_rows(names["bad"] / "train.jsonl", [{"question": "q", "answer": "a\n#### 1"}])
    bad.open("a").write('{"question": \n')
    code, out, said = command("--task", "gsm8k", *short, *args.format(**names).split())
    assert code == 2 and out == "" and not (tmp_path / "run").exists()
    assert said[-1].startswith("s3ft.py: ") and words.format(**names) in said[-1]
    assert len([line for line in said if line.startswith("s3ft.py: ")]) == 1


def test_golds_that_the_judge_does_not_accept_are_listed(short, tmp_path):
    rows = [
        {"prompt": f"p{n}", "gold": f"The answer is {n}.", "answer": n + n % 2} for n in range(30)
    ]
    task = write_rows(tmp_path / "own.jsonl", rows)
    code, _, said = command("--task", task, "--test", task, *short)
    named = re.findall(r"own\.jsonl:(\d+): the judge does not accept", "\n".join(said))
    assert code == 2 and named == [str(n) for n in range(2, 22, 2)]


def test_files_that_the_readme_names_exist():
    text = (kill.ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (kill.ROOT / name).exists(), name
