"""SVAMP (Patel et al., NAACL 2021, arXiv 2103.07191): 1,000 short word problems, the neighbour task of GSM8K, to test on.
The authors' SVAMP.json is a list of {"Body", "Question", "Answer", …}; body and question are joined as in Kojima et al. 2022
(arXiv 2205.11916), and asked with the request of GSM8K.
"""
from pathlib import Path

from data import Example
from data.gsm8k import PROMPT
from files import InputError, read_json, whole_text
from judges import quantity


def load(directory):
    """Examples of `directory`/SVAMP.json for judges.numeric; InputError names the row that is bad."""
    file, examples = Path(directory) / "SVAMP.json", []
    if not file.exists():
        raise InputError(f"{file}: not there; `python data/fetch.py svamp` downloads it")
    for n, row in enumerate(read_json(file, list), 1):
        try:
            question, answer = whole_text(row["Body"].strip() + " " + row["Question"].strip()), f"{float(row['Answer']):.12g}"
            if quantity(answer) is None:
                raise ValueError(f"the answer {answer} is not one number")
        except (InputError, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InputError(f"{file}: row {n} is not as published ({type(error).__name__}: {error}); mend or remove it")
        examples.append(Example(f"SVAMP.json:{n}", PROMPT.format(question=question), f"#### {answer}", {"answer": answer}))
    if not examples:
        raise InputError(f"{file}: no examples in this file; fetch it again")
    return examples
