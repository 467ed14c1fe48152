"""data/benchmarks.py against texts written out in the layout of lm-evaluation-harness 0.4.13."""

import functools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import tokenizers

from data import benchmarks
from files import InputError

ROOT = Path(__file__).resolve().parents[1]
TREES = '''"Which tree loses its leaves,
in autumn? ",Pine,"Beech, or ""Fagus""",Fir, Yew ,B
 What do roots take up?,Light,Water,None,Sound,B
'''
DEV = "".join(f"Is {n} even?,Yes,No,NA,Never,{'AB'[n % 2]}\r\n" for n in range(5))
TRUTH = {
    "question": "Do fish sleep?",
    "mc1_targets": {"They rest.": 1, "No.": 0, "Only on land.": 0},
    "mc2_targets": {"They rest.": 1, "Many do.": 1, "No.": 0, "Only on land.": 0},
}
BREAD = {
    "activity_label": "Baking",
    "ctx_a": "A man  kneads dough.",
    "ctx_b": "he",
    "endings": ["puts it in the oven.", "sings."],
    "label": 0,
}
BROOM = {
    "activity_label": "Home",
    "ctx_a": "[header] How to sweep [title] Take a broom.",
    "ctx_b": "",
    "endings": ["[step] Start in a corner. ", "Stop [substeps]", ""],
    "label": "1",
}


@pytest.fixture
def sets(tmp_path):
    texts = {
        "mmlu/test/forest_care_test.csv": TREES,
        "mmlu/dev/forest_care_dev.csv": DEV,
        "truthfulqa/mc_task.json": json.dumps([TRUTH]),
        "hellaswag/hellaswag_val.jsonl": json.dumps(BREAD) + "\n" + json.dumps(BROOM),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def test_mmlu(sets):
    first, second = benchmarks.load("mmlu", sets / "mmlu")
    intro = "The following are multiple choice questions (with answers) about forest care.\n\n"
    leaves = "Which tree loses its leaves,\nin autumn?\n"
    assert (
        first.context == f'{intro}{leaves}A. Pine\nB. Beech, or "Fagus"\nC. Fir\nD.  Yew \nAnswer:'
    )
    assert first.choices == [" A", " B", " C", " D"] and first.gold == [0, 1, 0, 0]
    assert (first.id, second.id) == ("forest_care_test.csv:1", "forest_care_test.csv:2")
    roots = "What do roots take up?\nA. Light\nB. Water\nC. None\nD. Sound\nAnswer:"
    assert second.context == intro + roots
    options = "A. Yes\nB. No\nC. NA\nD. Never\nAnswer:"
    shots = f"Is 0 even?\n{options} A\n\nIs 1 even?\n{options} B\n\n"
    assert benchmarks.load("mmlu", sets / "mmlu", 2)[1].context == intro + shots + roots


def test_truthfulqa(sets):
    (item,) = benchmarks.load("truthfulqa", sets / "truthfulqa")
    first = "Q: What is human life expectancy in the United States?\nA: Human life expectancy in"
    last = "A: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Do fish sleep?\nA:"
    assert item.context.startswith(first) and item.context.endswith(last)
    assert item.context.count("\n\nQ: ") == 6 and "\n\n\n" not in item.context
    assert item.choices == [" They rest.", " No.", " Only on land.", " Many do."]
    assert item.gold == [1, 0, 0, 1] and item.mc1 == 3


def test_hellaswag_is_cleaned_once_or_twice(sets):
    bread, broom = benchmarks.load("hellaswag", sets / "hellaswag")
    assert bread.context == "Baking: A man kneads dough. He"
    assert bread.choices == [" puts it in the oven.", " sings."] and bread.gold == [1, 0]
    assert broom.context == "Home: How to sweep. Take a broom."
    assert broom.choices == ["  Start in a corner.", " Stop ", " "]  # as in the harness
    assert broom.gold == [0, 1, 0]
    clean = {**BREAD, "ctx_a": "A man kneads dough.", "ctx_b": "He"}
    (sets / "hellaswag/hellaswag_val.jsonl").write_text(json.dumps(clean))
    assert benchmarks.load("hellaswag", sets / "hellaswag") == [bread]


def test_scores(sets):
    item = benchmarks.load("mmlu", sets / "mmlu")[0]
    assert benchmarks.scores(item, [-1.5, -1.2, -3, -9]) == {"acc": 1}
    assert benchmarks.scores(item, [-1.2, -1.2, -3, -9]) == {"acc": 0}  # of equals the first
    (item,) = benchmarks.load("truthfulqa", sets / "truthfulqa")
    for p, mc1, mc2 in ([0.2, 0.1, 0.3, 0.4], 0, 0.6), ([0.5, 0.1, 0.3, 0.9], 1, 1.4 / 1.8):
        logprobs = [math.log(x) - 900 for x in p]
        assert benchmarks.scores(item, logprobs) == {"mc1": mc1, "mc2": pytest.approx(mc2)}
    bread, broom = benchmarks.load("hellaswag", sets / "hellaswag")
    for first, norm in (-10, 1), (-30, 1), (-31, 0):  # endings of 20 and 6 characters
        assert benchmarks.scores(bread, [first, -9.1]) == {"acc": 0, "acc_norm": norm}
    assert benchmarks.scores(broom, [-50, -2, -1]) == {"acc": 0, "acc_norm": 1}  # "" is last


def test_pairs_are_cut_as_the_harness_cuts_them():
    tok = tiny.tokenizer()
    encode = functools.partial(tok.encode, add_special_tokens=False)
    tokenizer = SimpleNamespace(tok=tok, encode_text=lambda text: encode(text).ids)
    item = benchmarks.Item("hellaswag", "x", "ab  ", [" cd", " e"], [1, 0])
    (prompt, first), (_, second) = benchmarks.pairs(tokenizer, item, 100)
    assert [tok.decode(ids) for ids in (prompt, first, second)] == ["ab", "   cd", "   e"]
    for max_seq_len, kept in (6, prompt), (5, prompt[1:]):  # 6 tokens read 2 + 5: not the last
        assert benchmarks.pairs(tokenizer, item, max_seq_len)[0] == (kept, first)
    tok.post_processor = tokenizers.processors.TemplateProcessing(
        "<|begin|> $A", special_tokens=[("<|begin|>", 256)]
    )
    assert benchmarks.pairs(tokenizer, item, 100)[0] == ([256, *prompt], first)


BAD = [
    ("mmlu/test/forest_care_test.csv", "a,b,c,d,e,A\nq,1,2,3,4,5,A\n", "test.csv: row 2: not as"),
    ("mmlu/test/forest_care_test.csv", "a,b,c,d,e,E\n", "row 1: not as published"),
    ("mmlu/test/forest_care_test.csv", "", "no examples"),
    ("mmlu/test/forest_care_test.csv", b"caf\xe9,b,c,d,e,A\n", "mmlu: a file is damaged"),
    ("truthfulqa/mc_task.json", '[{"question": "Why?"}]', "row 1: .*KeyError: 'mc1_targets'"),
    ("truthfulqa/mc_task.json", '{"a": 1}', "a list is needed"),
    ("truthfulqa/mc_task.json", '[{"question": "\\ud800"}]', "row 1: a text .* mend or remove"),
    ("hellaswag/hellaswag_val.jsonl", json.dumps({**BREAD, "label": ""}), ":1: not as"),
    ("hellaswag/hellaswag_val.jsonl", json.dumps({**BREAD, "label": 2}), ":1: .*IndexError"),
    ("hellaswag/hellaswag_val.jsonl", "{", "hellaswag_val.jsonl:1: not JSON"),
]


@pytest.mark.parametrize("file, text, said", BAD)
def test_bad_rows_are_named(sets, file, text, said):
    (sets / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    name = file.partition("/")[0]
    with pytest.raises(InputError, match=said) as error:
        benchmarks.load(name, sets / name)
    assert str(sets / name) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_set_names_its_command(tmp_path):
    for name in benchmarks.LOADERS.keys() - {"winogrande"}:
        with pytest.raises(InputError, match=f"`python data/fetch.py {name}`"):
            benchmarks.load(name, tmp_path / "nowhere")
    with pytest.raises(InputError, match="6 shots of mmlu: there are 5"):
        benchmarks.load("mmlu", tmp_path, 6)


@pytest.mark.parametrize("name, count", [("mmlu", 14042), ("truthfulqa", 817), ("hellaswag", 1000)])
def test_published(name, count):
    folder = Path(os.environ.get("S3FT_DATA", ROOT / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the published {name}: set S3FT_DATA or run python data/fetch.py {name}")
    items = benchmarks.load(name, folder)
    assert len(items) in (count, 10_042)  # HellaSwag: all, or the part that S3FT_DATA has
    assert len({item.id for item in items}) == len(items)
    if name == "truthfulqa":
        assert sum(item.mc1 for item in items) == 4114
    else:  # the right choice is evenly spread
        first = sum(item.gold[0] for item in items)
        assert 0.21 < first / len(items) < 0.29
