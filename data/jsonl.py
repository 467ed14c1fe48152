"""Your own task: a file with one example a line, in a format that trainers take.

{"messages": [{"role": "user", "content": …}, …, {"role": "assistant", "content": gold}]}
{"prompt": …, "completion": gold}      or {"prompt": …, "gold": gold}
{"instruction": …, "input": …, "output": gold}
{"question": …, "answer": gold}

Beside them may stand what a judge needs:
numeric  "answer": the number
code     "tests": a list of asserts; "setup" (optional): code that they need
reading  "answers": a list of texts, empty if unanswerable; "question" (optional)
Without these the judge is `label` if the golds are at most 50 short labels, else `exact`.
"""

import random
from pathlib import Path

import judges
from data import Example, gsm8k, nq, some, text, user
from files import InputError, check_text, parse_json, parse_rows, read_bytes, read_jsonl

MAX_NEW_TOKENS = 400
PARAPHRASE = """{prompt}

Reference response:
{gold}

Use the reference response as a guide and write your own response."""
FORMATS = [  # the fields that tell one; the last is gold
    ("messages",),
    ("prompt", "completion"),
    ("prompt", "gold"),
    ("instruction", "output"),
    ("question", "answer"),
]
RULES = {"answer": "numeric", "answers": "reading", "tests": "code"}  # the last one there counts
MOST_LABELS, LONGEST_LABEL = 50, 5  # labels of so many words


def read(file, parse):
    """[parse(line or row number, dict)] of a file of lines, or of one JSON array.

    Fields that are null, as tables have them, count as absent.
    """

    def parse_present(number, row):
        return parse(number, {name: value for name, value in row.items() if value is not None})

    data = read_bytes(file).strip()
    if data.startswith(b"["):
        try:
            rows = parse_json(data, list)
        except InputError as error:
            raise InputError(f"{file}: {error}; mend it, or write one row a line")
        return parse_rows(f"{file}: row ", enumerate(rows, 1), parse_present)
    if b"\r" in data.replace(b"\r\n", b""):
        raise InputError(f'{file}: holds old line ends, "\\r" alone; write "\\n" instead')
    if data.split(b"\n")[0].strip() == b"{":
        raise InputError(f"{file}: a row spans several lines; `jq -c . FILE` makes it one a line")
    return read_jsonl(file, parse_present)


def describe(file):
    """(fields of its format, name of the default judge). InputError names a row of another kind."""
    kinds, golds = [], set()

    def parse(line, row):
        fields = fields_of(row)
        golds.add(judges.after_thought(conversation(row)[1]))
        judge = "numeric" if is_number(row[fields[-1]]) else "exact"
        for field, name in RULES.items():
            if field in row and field not in fields:
                judge = name
        kinds.append((" and ".join(fields), judge))
        if kinds[-1] != kinds[0]:
            what = "has {} for judge {}, the first row has {} for judge {}"
            raise InputError(what.format(*kinds[-1], *kinds[0]))

    some(read(file, parse), file)
    fields, judge = kinds[0]
    longest = max(len(gold.split()) for gold in golds)
    if judge == "exact" and len(golds) <= MOST_LABELS and longest <= LONGEST_LABEL:
        judge = "label"
    return fields, judge


def is_number(value):
    return type(value) in (int, float)


def fields_of(row):
    """The entry of FORMATS that a row is in."""
    for fields in FORMATS:
        if row.keys() >= set(fields):
            return fields
    known = ", ".join(" and ".join(fields) for fields in FORMATS)
    raise InputError(f"has the fields {', '.join(row)}; known are {known}")


def conversation(row):
    """(messages, gold) of a row."""
    question, *answer = fields_of(row)
    if question == "messages" or isinstance(row[question], list):  # TRL's prompts may be messages
        turns = sum((row[field] for field in (question, *answer)), [])
        if turns and turns[0] == {"role": "system", "content": ""}:  # as chat exports have it
            turns = turns[1:]
        messages = [{"role": role(turn), "content": unix(text(turn, "content"))} for turn in turns]
        last = messages.pop() if messages else {}
        if last.get("role") != "assistant" or not messages or messages[-1]["role"] != "user":
            raise InputError("the last messages should be the user's and the assistant's")
        return messages, last["content"]
    prompt = text(row, question)
    if question == "instruction" and row.get("input", "").strip():
        prompt += "\n\n" + text(row, "input")
    gold = row[answer[0]]
    gold = str(gold) if is_number(gold) else text(row, answer[0])
    return user(unix(prompt)), unix(gold)


def role(turn):
    if turn.get("role") not in ("system", "user", "assistant"):
        raise InputError(
            f"a message has the role {turn.get('role')!a}; known: system, user, assistant"
        )
    return turn["role"]


def unix(text):
    return text.replace("\r\n", "\n")


def load(file, judge):
    """Examples of `file` for the judge of this name. InputError names file and line of bad rows."""
    _, fields = judges.JUDGES[judge.partition(":")[0]]

    def parse(line, row):
        messages, gold = conversation(row)
        field = fields_of(row)[-1]
        if judge != "numeric" or is_number(row[field]):
            answer = judges.after_thought(gold).strip()
            if field != "answer":  # the row may have one beside its gold
                answer = row.get("answer", answer)
            row = {**row, "answer": answer, "labels": []}
        check = check_text(judges.check_fields(fields, row))
        return Example(f"{Path(file).name}:{line}", messages, gold, check)

    return read(file, parse)


def add_labels(examples):
    """Tell the judge `label` what labels there are."""
    labels = sorted({example.check["answer"] for example in examples})
    for example in examples:
        example.check["labels"] = labels


def split(examples, fraction, seed):
    """(training, test) examples: a seeded share of the distinct prompts is for testing alone."""
    asked = lambda example: "\n".join(turn["content"] for turn in example.messages)  # noqa: E731
    prompts = sorted({asked(example) for example in examples})
    count = round(fraction * len(prompts))
    held_out = set(random.Random(seed).sample(prompts, count))
    train, test = [], []
    for example in examples:
        side = test if asked(example) in held_out else train
        side.append(example)
    return train, test


def label_metrics(response, example):
    """label_anywhere: is the right label the only one that the response names?"""
    gold, named, _ = judges.find_labels(response, example)
    return {
        "exact_match": int(judges.exact(response, example).correct),
        "label_anywhere": int(named == {gold}),
    }


METRICS = {"numeric": gsm8k.metrics, "reading": nq.metrics, "label": label_metrics}  # by judge
