"""data/bench.py, data/svamp.py, and what sampler.logprobs reads once.

The wording is held against texts written out here in the layout of lm-evaluation-harness 0.4.13; experiments/lm_eval.py asks the
harness itself, on the real items. S3FT_DATA names a folder with the published sets; without it those fetched into data/ are used.
"""
import json
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace

import judges
import model as llama
import pytest
import sampler
import tiny
import tokenizers
import torch
from data import bench, svamp
from files import InputError

ROOT = Path(__file__).resolve().parents[1]

# ---- small sets in the published formats ----

TREES = '''"Which tree loses its leaves,
in autumn? ",Pine,"Beech, or ""Fagus""",Fir, Yew ,B
 What do roots take up?,Light,Water,None,Sound,B
'''
DEV = "".join(f"Is {n} even?,Yes,No,NA,Never,{'AB'[n % 2]}\r\n" for n in range(5))
TRUTH = [{"question": "Do fish sleep?", "mc1_targets": {"They rest.": 1, "No.": 0, "Only on land.": 0},
          "mc2_targets": {"They rest.": 1, "Many do.": 1, "No.": 0, "Only on land.": 0}}]
SWAG = [{"activity_label": "Baking", "ctx_a": "A man  kneads dough.", "ctx_b": "he",
         "endings": ["puts it in the oven.", "sings."], "label": 0},
        {"activity_label": "Home", "ctx_a": "[header] How to sweep [title] Take a broom.", "ctx_b": "",
         "endings": ["[step] Start in a corner. ", "Stop [substeps]"], "label": "1"},
        {"activity_label": "Home", "ctx_a": "Wipe", "ctx_b": "THE table [step]", "endings": ["", "dry."], "label": "1"}]
SVAMP = [{"ID": "chal-1", "Body": "Ann has 5 pens. She lost 2 ", "Question": "How many are left?", "Answer": 3.0},
         {"ID": "chal-2", "Body": "A rope of 7 m is cut in 2.", "Question": "How long is a piece?", "Answer": 3.5}]


@pytest.fixture
def sets(tmp_path):
    texts = {"mmlu/test/forest_care_test.csv": TREES, "mmlu/dev/forest_care_dev.csv": DEV, "svamp/SVAMP.json": json.dumps(SVAMP),
             "truthfulqa/mc_task.json": json.dumps(TRUTH), "hellaswag/hellaswag_val.jsonl": "\n".join(map(json.dumps, SWAG))}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_mmlu(sets):
    first, second = bench.load("mmlu", sets / "mmlu")
    assert first.context == """The following are multiple choice questions (with answers) about forest care.

Which tree loses its leaves,
in autumn?
A. Pine
B. Beech, or "Fagus"
C. Fir
D.  Yew \

Answer:"""
    assert first.choices == [" A", " B", " C", " D"] and first.gold == [0, 1, 0, 0] and first.id == "forest_care_test.csv:1"
    assert second.context.endswith("\n\nWhat do roots take up?\nA. Light\nB. Water\nC. None\nD. Sound\nAnswer:")
    two, five = (bench.load("mmlu", sets / "mmlu", shots)[1].context for shots in (2, 5))
    assert two == """The following are multiple choice questions (with answers) about forest care.

Is 0 even?
A. Yes
B. No
C. NA
D. Never
Answer: A

Is 1 even?
A. Yes
B. No
C. NA
D. Never
Answer: B

What do roots take up?
A. Light
B. Water
C. None
D. Sound
Answer:"""
    assert five.count("Answer: ") == 5 and five.index("Is 3 even?") < five.index("Is 4 even?")


def test_truthfulqa(sets):
    item, = bench.load("truthfulqa", sets / "truthfulqa")
    assert item.context.startswith("Q: What is human life expectancy in the United States?\nA: Human life expectancy in the "
                                   "United States is 78 years.\n\nQ: Who was president") and item.context.count("Q: ") == 7
    assert item.context.endswith("\nA: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Do fish sleep?\nA:")
    assert item.choices == [" They rest.", " No.", " Only on land.", " Many do."] and item.gold == [1, 0, 0, 1] and item.mc1 == 3


def test_hellaswag_is_cleaned_once_or_twice(sets):
    first, second, third = bench.load("hellaswag", sets / "hellaswag")
    assert first.context == "Baking: A man kneads dough. He" and first.choices == [" puts it in the oven.", " sings."]
    assert second.context == "Home: How to sweep. Take a broom." and second.gold == [0, 1]
    assert second.choices == ["  Start in a corner.", " Stop "] and third.context == "Home: Wipe The table "  # as the harness
    again = {**SWAG[0], "ctx_a": "A man kneads dough.", "ctx_b": "He", "endings": [choice[1:] for choice in first.choices]}
    (sets / "hellaswag/hellaswag_val.jsonl").write_text(json.dumps(again))
    assert bench.load("hellaswag", sets / "hellaswag") == [first]


def test_svamp(sets):
    first, second = svamp.load(sets / "svamp")
    assert first.prompt.startswith("Ann has 5 pens. She lost 2 How many are left?\n\n") and first.gold == "#### 3"
    for example, right, wrong in (first, "3", "2"), (second, "3.50", "3"):
        verdicts = [judges.numeric(f"The answer is {number}.", example).correct for number in (right, wrong)]
        assert verdicts == [True, False]


# ---- scores ----

def test_scores(sets):
    item = bench.load("mmlu", sets / "mmlu")[0]
    assert bench.scores(item, [-1.5, -1.2, -3, -9]) == {"acc": 1}
    assert bench.scores(item, [-1.2, -1.2, -3, -9]) == {"acc": 0}            # of equals the first counts
    item, = bench.load("truthfulqa", sets / "truthfulqa")
    p = [0.2, 0.1, 0.3, 0.4]
    assert bench.scores(item, [math.log(x) for x in p]) == {"mc1": 0, "mc2": pytest.approx(0.6)}
    p = [0.5, 0.1, 0.3, 0.9]
    assert bench.scores(item, [math.log(x) - 900 for x in p]) == {"mc1": 1, "mc2": pytest.approx(1.4 / 1.8)}
    first, _, third = bench.load("hellaswag", sets / "hellaswag")           # endings of 20 and 6 characters
    for values, normed in ([-10, -9], 1), ([-30, -9.1], 1), ([-31, -9.1], 0):
        assert bench.scores(first, values) == {"acc": 0, "acc_norm": normed}
    assert bench.scores(third, [-1, -50]) == {"acc": 0, "acc_norm": 1}       # an ending of no characters


# ---- tokens ----

def encoder():
    tok = SimpleNamespace(tok=tiny.tokenizer())
    tok.encode_text = lambda text: llama.Tokenizer.encode_text(tok, text)
    return tok


def test_pairs_are_cut_as_the_harness_cuts_them():
    tok, item = encoder(), bench.Item("hellaswag", "x", "ab  ", [" cd", " <|eos|>"], [1, 0])
    (prompt, first), (_, second) = bench.pairs(tok, item, 100)
    assert [tok.tok.decode(ids, skip_special_tokens=False) for ids in (prompt, first, second)] == ["ab", "   cd", "   <|eos|>"]
    assert 257 not in second                                                 # text is text
    for context, kept in (6, prompt), (5, prompt[1:]):                       # the last token is not read: 6 hold 2 + 5
        assert bench.pairs(tok, item, context)[0] == (kept, first)
    tok.tok.post_processor = tokenizers.processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 256)])
    (start, same), _ = bench.pairs(tok, item, 100)
    assert start == [256, *prompt] and same == first


# ---- what is not there or not as published ----

@pytest.mark.parametrize("name, file, text, said", [
    ("mmlu", "test/forest_care_test.csv", "a,b,c,d,e,A\nq,1,2,3,4,5,A\n", "the row after forest_care_test.csv:1"),
    ("mmlu", "test/forest_care_test.csv", "a,b,c,d,e,E\n", "the first row .*no choice is right"),
    ("mmlu", "test/forest_care_test.csv", "", "no rows"),
    ("truthfulqa", "mc_task.json", '[{"question": "?", "mc1_targets": {"a": 0}, "mc2_targets": {"a": 0}}]', "its right answer"),
    ("truthfulqa", "mc_task.json", '[{"question": "Why?"}]', "KeyError: 'mc1_targets'"),
    ("truthfulqa", "mc_task.json", '{"a": 1}', "a list is needed"),
    ("truthfulqa", "mc_task.json", json.dumps(TRUTH).replace("sleep", "\\ud800"), "mc_task.json:1: the text .* mend or remove it"),
    ("hellaswag", "hellaswag_val.jsonl", json.dumps(SWAG[0]) + "\n" + json.dumps({**SWAG[0], "label": ""}), "the row after .*:1"),
    ("hellaswag", "hellaswag_val.jsonl", json.dumps({**SWAG[0], "label": 2}), "no choice is right"),
    ("hellaswag", "hellaswag_val.jsonl", "{", "hellaswag_val.jsonl:1: not JSON"),
])
def test_bad_rows_are_named(sets, name, file, text, said):
    (sets / name / file).write_text(text)
    with pytest.raises(InputError, match=said) as error:
        bench.load(name, sets / name)
    assert str(sets / name) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_set_names_its_command(tmp_path, sets):
    for name in bench.LOADERS:
        with pytest.raises(InputError, match=f"`python data/fetch.py {name}`"):
            bench.load(name, tmp_path / "nowhere")
    with pytest.raises(InputError, match="`python data/fetch.py svamp`"):
        svamp.load(tmp_path / "nowhere")
    for name, shots in (("arc", 0), ("hellaswag", 1), ("mmlu", 6)):
        with pytest.raises(InputError, match="mmlu takes 0 to 5"):
            bench.load(name, sets / "mmlu", shots)


@pytest.mark.parametrize("text, said", [
    ('[{"Body": "a", "Question": "b", "Answer": "many"}]', "row 1"), ('[{"Body": "a", "Question": "b", "Answer": 1e999}]', "row 1 .*not one number"),
    ('[{"Body": "a", "Question": "b", "Answer": %s}]' % ("9" * 400), "row 1 .*OverflowError"),
    ('[{"Body": "\\ud800", "Question": "b", "Answer": 1}]', "row 1 .*holds"), ("[5]", "row 1"), ("[]", "no examples"), ("5", "a list is needed")])
def test_bad_problems_of_svamp_are_named(sets, text, said):
    (sets / "svamp/SVAMP.json").write_text(text)
    with pytest.raises(InputError, match=said):
        svamp.load(sets / "svamp")


# ---- the published sets ----

COUNTS = {"mmlu": [14_042], "truthfulqa": [817], "hellaswag": [1_000, 10_042], "svamp": [1_000]}


@pytest.mark.parametrize("name, counts", COUNTS.items())
def test_published(name, counts):
    folders = [Path(os.environ["S3FT_DATA"])] if "S3FT_DATA" in os.environ else []
    folder = next((f / name for f in [*folders, ROOT / "data"] if (f / name).is_dir()), None)
    if not folder:
        pytest.skip(f"needs the published {name}: set S3FT_DATA or run python data/fetch.py {name}")
    items = svamp.load(folder) if name == "svamp" else bench.load(name, folder)
    assert len(items) in counts and len({i.id for i in items}) == len(items)
    if name == "svamp":
        assert all(judges.numeric(f"The answer is {e.check['answer']}.", e).correct for e in items)
    elif name == "truthfulqa":
        assert sum(i.mc1 for i in items) == 4_114 and sum(len(i.choices) for i in items) == 5_882
    else:                                                                    # the right choice is evenly spread
        assert all(0.21 < sum(i.gold[n] for i in items) / len(items) < 0.29 for n in range(4))
    if name == "mmlu":
        assert len({i.context.partition("\n")[0] for i in items}) == 57
        assert {i.context.count("\nAnswer: ") for i in bench.load(name, folder, 5)} == {5}


# ---- sampler.logprobs: what texts share is read once ----

@pytest.fixture(scope="module", params=["smollm2", "mistral-window", "qwen2-window", "qwen3"])
def model(request, tmp_path_factory):
    return llama.load(tiny.checkpoint(tmp_path_factory.mktemp("ckpt"), request.param))[0]


def tree(seed, n=40):
    """Pairs that part at many places: before, at and after the end of a prompt; equal texts; empty continuations."""
    r, pairs = random.Random(seed), [([1], [2])]
    for _ in range(n):
        text = sum(r.choice(pairs), [])
        text = text[:r.randrange(1, len(text) + 1)] + [r.randrange(3) for _ in range(r.randrange(12))]
        cut = r.randrange(1, len(text) + 1)
        pairs.append((text[:cut], text[cut:]))
    return [p for p, _ in pairs], [c for _, c in pairs]


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(2))
def test_shared_beginnings_change_no_logprob(model, seed, monkeypatch):
    prompts, continuations = tree(seed)
    expected = [sum(model(torch.tensor([p + c]))[0].log_softmax(-1)[len(p) - 1 + k, t].item() for k, t in enumerate(c))
                for p, c in zip(prompts, continuations)]
    hidden, read = llama.Transformer.hidden, []

    def counted(self, ids, *rest):
        read.append(ids.numel())
        return hidden(self, ids, *rest)
    monkeypatch.setattr(llama.Transformer, "hidden", counted)
    nodes = {tuple((p + c)[:n]) for p, c in zip(prompts, continuations) for n in range(1, len(p) + max(1, len(c)))}
    for budget in (3, 40, 10_000):
        read.clear()
        assert sampler.logprobs(model, prompts, continuations, budget=budget) == pytest.approx(expected, abs=1e-4)
        assert sum(read) == len(nodes) and set(read[:-1]) <= {budget} and read[-1] <= budget  # every beginning once


def test_bench_items_are_scored_as_one_by_one(model, sets):
    items = [item for name in bench.LOADERS for item in bench.load(name, sets / name)]
    pairs = [pair for item in items for pair in bench.pairs(encoder(), item, model.config.context)]
    together = sampler.logprobs(model, *zip(*pairs))
    assert together == pytest.approx([sampler.logprobs(model, [p], [c])[0] for p, c in pairs], abs=1e-3)
    assert sampler.logprobs(model, [], []) == []
