"""Reading comprehension: questions about a passage, some of which it does not answer.

Natural Questions (Kwiatkowski et al. 2019) as Lavi et al. prepared it (arXiv 2509.22449):
{answerable,unanswerable}_{train,val,val2,test}.json, lists of {"instruction", "gt_answer"}.
SQuAD 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822): train-v2.0.json, and dev-v2.0.json to test on.
Passages and answers stay as published.
"""

import json
import re
import string
from collections import Counter
from pathlib import Path

from data import Example, some, text, user
from files import InputError, parse_rows, read_json
from judges import abstentions

JUDGE = "reading"
MAX_NEW_TOKENS = 64
ABSTAIN = "unanswerable"  # what to say if the passage has no answer
PARTS = {"train": ("train", "val", "val2"), "test": ("test",)}  # val and val2 may be absent
SQUAD = {"train": "train-v2.0.json", "test": "dev-v2.0.json"}

PROMPT = """Passage: {passage}

Question: {question}

Reply with the answer alone, in a few words of the passage, or with "unanswerable" if the passage \
does not say it."""
PARAPHRASE = """{prompt}

The correct answer is: {gold}

Reply to the question with this answer, phrased the way you would say it."""


def load(directory, split):
    """Examples of the split "train" or "test". InputError names file and row of bad rows."""
    directory = Path(directory)
    if (directory / SQUAD[split]).exists():
        return some(load_squad(directory / SQUAD[split]), directory)
    examples = []
    for kind in "answerable", "unanswerable":
        for part in PARTS[split]:
            file = directory / f"{kind}_{part}.json"
            if file.exists() or part == split:
                examples += load_nq(file, kind == "answerable")
    return some(examples, directory)


def load_nq(file, answerable):
    def parse(number, row):
        instruction = text(row, "instruction").rstrip().removesuffix("Answer:")
        passage, _, question = instruction.partition("Passage:")[2].rpartition("Question:")
        if not passage.strip() or not question.strip():
            raise InputError('"instruction" should read "… Passage: … Question: … Answer:"')
        answer = row["gt_answer"]
        answers = [answer] if answer else []
        if answer.startswith("["):
            answers = json.loads(answer)
        if bool(answers) != answerable:
            raise InputError('"gt_answer" should be empty in unanswerable_*.json alone')
        return example(f"{file.name}:{number}", passage, question, answers)

    return parse_rows(f"{file}: row ", enumerate(read_json(file, list), 1), parse)


def load_squad(file):
    def parse(number, article):
        examples = []
        for paragraph in article["paragraphs"]:
            for row in paragraph["qas"]:
                answers = [answer["text"] for answer in row["answers"]]
                id = f"{file.name}:{row['id']}"
                examples.append(example(id, paragraph["context"], row["question"], answers))
        return examples

    articles = read_json(file, dict).get("data", [])
    return sum(parse_rows(f"{file}: row ", enumerate(articles, 1), parse), [])


def example(id, passage, question, answers):
    answers = [text({"answer": answer}, "answer").strip() for answer in answers]
    gold = answers[0] if answers else ABSTAIN
    question = question.strip()
    messages = user(PROMPT.format(passage=passage.strip(), question=question))
    return Example(id, messages, gold, {"answers": answers, "question": question})


# Scores, as the official script of SQuAD 2.0 computes them


def metrics(response, example):
    """Exact match and F1, the best over golds; an abstention is the empty prediction.

    lenient: the response holds a gold answer and abstains nowhere, or abstains somewhere. Each is
    repeated for answerable or for unanswerable questions alone.
    """
    golds = [*filter(None, map(normalise, example.check.get("answers", [])))]
    part = "answerable" if golds else "unanswerable"
    abstains = abstentions(response)
    said = [] if abstains and all(abstains) else normalise(response)
    held = any(f" {' '.join(gold)} " in f" {' '.join(said)} " for gold in golds)
    scores = {
        "f1": max(f1(said, gold) for gold in golds or [[]]),
        "exact_match": int(said in (golds or [[]])),
        "lenient": int(held and not any(abstains) if golds else any(abstains)),
    }
    return scores | {f"{part} {name}": score for name, score in scores.items()}


def normalise(text):
    """Its words in lower case, without punctuation and articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(said, gold):
    if not said or not gold:
        return int(said == gold)
    common = (Counter(said) & Counter(gold)).total()
    return 2 * common / (len(said) + len(gold))
