"""Reading comprehension: questions about a passage, some of which it does not answer. Two published formats, told by file name.

Natural Questions (Kwiatkowski et al., TACL 2019) as prepared by Lavi et al. (arXiv 2509.22449): {answerable,unanswerable}_{train,
val,val2,test}.json, lists of {"instruction", "gt_answer"}: an instruction reads "… Passage: … Question: … Answer:", an answer is
a text, a JSON list of texts in a text, or empty. train, val and val2 (which may be absent) make the training split.
SQuAD 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822): train-v2.0.json, and dev-v2.0.json as the test split.

Both classes are merged. A question of the test split leaves the training split, whatever its passage; of equal questions about
one passage the first is kept. Passages and answers stay as published ("present - day", "`` word ''"): the judge normalises.
Not covered: long answers and the positions of answers.
"""
import json
import re
from pathlib import Path

from data import Example
from files import InputError, gather, read_json, whole_text

ABSTAIN = "unanswerable"  # what to say where the passage has no answer
PARTS = {"train": ("train", "val", "val2"), "test": ("test",)}
SQUAD = {"train": "train-v2.0.json", "test": "dev-v2.0.json"}
KINDS = {list: "a list", str: "a text that is not empty", bool: "true or false"}

# Both chosen by measurement on two checkpoints (NOTES.md, "The requests for an answer from a passage").
PROMPT = """Passage: {passage}

Question: {question}

Reply with the answer alone, in a few words of the passage, or with "unanswerable" if the passage does not say it."""
PARAPHRASE = """{prompt}

Reference answer: {gold}

Say the same as the reference answer in one short sentence of your own. If it is "unanswerable", say that the passage does not \
answer the question."""


def load(directory, split):
    """Examples of the split "train" or "test"; InputError names the file and the row that is bad."""
    rows, examples = list(read(Path(directory), split)), {}
    asked = {same(question) for _, _, question, _ in read(Path(directory), "test")} if split == "train" else ()
    for id, passage, question, answers in rows:
        if same(question) not in asked:
            example = Example(id, PROMPT.format(passage=passage, question=question), answers[0] if answers else ABSTAIN,
                              {"answers": answers, "question": question})
            examples.setdefault((passage, same(question)), example)
    if not examples:
        raise InputError(f"{directory}: no examples of the {split} split; download the files again, or name a folder that has rows")
    return list(examples.values())


def same(question):
    """A question without case, punctuation and white space: those that share it are the same."""
    return " ".join(re.findall(r"\w+", question.casefold()))


def read(directory, split):
    """Yield (id, passage, question, answers) of a split's files, answers [] where the passage has none."""
    classes = ("answerable", "unanswerable")
    if any((directory / f"{name}_{part}.json").exists() for name in classes for part in ("train", "test")):
        for name in classes:
            for part in PARTS[split]:
                file = directory / f"{name}_{part}.json"
                if file.exists() or not part.startswith("val"):
                    yield from read_nq(file, name == "answerable")
    elif any((directory / file).exists() for file in SQUAD.values()):
        yield from read_squad(directory / SQUAD[split])
    else:
        raise InputError(f"{directory}: has neither {{answerable,unanswerable}}_{{train,test}}.json nor {{train,dev}}-v2.0.json; "
                         "`python data/fetch.py nq` downloads the former")


def read_nq(file, answerable):
    def parse(numbered):
        where, row = f"{file}: row {numbered[0]}", numbered[1]
        instruction, answer = field(row, "instruction", str, where), row.get("gt_answer")
        parts = re.fullmatch(r"(?s).*?Passage:(.*)Question:(.*)Answer:\s*", instruction)  # a passage may say "Question:"
        if not parts or not parts[1].strip() or not parts[2].strip():
            raise InputError(f"{where}: \"instruction\" should read \"… Passage: … Question: … Answer:\"; mend or remove it")
        try:
            answers = json.loads(answer) if answer.startswith("[") else [answer] if answer.strip() else []
        except (AttributeError, ValueError, RecursionError):
            answers = [None]
        if not all(isinstance(a, str) and a.strip() for a in answers) or bool(answers) != answerable:
            form = "a text, or a JSON list of texts in a text" if answerable else "an empty text"
            raise InputError(f"{where}: \"gt_answer\" should be {form}, found {answer!a:.60}; mend or remove it")
        answers = [field({"gt_answer": a}, "gt_answer", str, where).strip() for a in answers]
        return f"{file.name}:{numbered[0]}", parts[1].strip(), parts[2].strip(), answers
    rows = read_json(file)
    return gather(enumerate(rows if isinstance(rows, list) else [rows], 1), parse)


def read_squad(file):
    def parse(item):
        here, context, row = item
        id, question = field(row, "id", str, here), " ".join(field(row, "question", str, here).split())
        answers = [field(x, "text", str, here).strip() for x in field(row, "answers", list, here)]
        if field(row, "is_impossible", bool, here) == bool(answers):
            raise InputError(f"{here}: \"is_impossible\" and \"answers\" contradict each other; mend or remove it")
        if ids.setdefault(id, here) != here:
            raise InputError(f"{here}: the id {id!a:.60} stands in this file twice; remove one of them")
        return f"{file.name}:{id}", context, question, list(dict.fromkeys(answers))
    items, ids = [], {}
    for a, article in enumerate(field(read_json(file), "data", list, file), 1):
        for p, paragraph in enumerate(field(article, "paragraphs", list, f"{file}: article {a}"), 1):
            where = f"{file}: article {a}, paragraph {p}"
            context = field(paragraph, "context", str, where).strip()
            items += [(f"{where}, question {q}", context, row) for q, row in enumerate(field(paragraph, "qas", list, where), 1)]
    return gather(items, parse)


def field(row, key, kind, where):
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, kind) or kind is str and not value.strip():
        raise InputError(f"{where}: \"{key}\" should be {KINDS[kind]}, found {value!a:.60}; mend or remove it")
    try:
        return whole_text(value) if kind is str else value
    except InputError as error:
        raise InputError(f"{where}: {error}; mend or remove it")
