"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school math word problems, in the authors' files train.jsonl and test.jsonl.

Each line holds {"question": …, "answer": "worked solution\\n#### n"}. The calculator marks <<48/2=24>> of the solutions were
made for a tool and are no part of what a model should say: they leave the gold response; the last line "#### n" stays.
"""
import re
from pathlib import Path

from data import Example
from files import InputError, read_jsonl, whole_text
from judges import quantity

# Chosen by measurement among nine wordings on two checkpoints (NOTES.md, "The request for the final answer").
PROMPT = """{question}

Let's think step by step: first explain each calculation, one a line. When all calculations are done, finish with the line \
"The answer is N", where N is the final number."""

# What the base model is asked for where its own response is wrong: [x; y] -> ỹ. Chosen among four wordings on two checkpoints
# (NOTES.md, "The request for a paraphrase").
PARAPHRASE = """{prompt}

Reference solution:
{gold}

Use the reference solution as a guide and write your own solution to the problem, step by step."""


def load(directory, split):
    """Examples of `directory`/{split}.jsonl, split "train" or "test"; InputError names file and line of bad rows."""
    def example(line, row):
        whole_text(row)
        for key in ("question", "answer"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise InputError(f"\"{key}\" should be a text that is not empty, found {row.get(key)!a:.60}")
        solution, mark, answer = row["answer"].rpartition("\n#### ")
        if not mark or not solution.strip() or not answer.strip():
            raise InputError("\"answer\" should be a solution and a last line \"#### number\"")
        if quantity(answer) is None:
            raise InputError(f"the final answer {answer[:60]!a} is not one number")
        return Example(f"{split}.jsonl:{line}", PROMPT.format(question=row["question"].strip()),
                       re.sub(r"<<[^<>]*>>", "", row["answer"]).strip(), {"answer": answer.strip()})
    file = Path(directory) / f"{split}.jsonl"
    examples = read_jsonl(file, example)
    if not examples:
        raise InputError(f"{file}: no examples in this file; download it again, or name one that has rows")
    return examples
