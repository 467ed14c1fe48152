"""Judges: would a careful human keep this whole response as a training target?

A judge is a function (response, example) -> Verdict. They lean to "wrong": a false "right" poisons the training set, a
false "wrong" costs one paraphrase. Nothing a model wrote is evaluated, and the time is linear in its length.

    python judges.py numeric ROWS.jsonl     rows {"response", "answer"}, optionally "correct": true or false

prints one JSON verdict a row, in order, and, where rows carry "correct", a last line on stderr that counts agreements.

`numeric` reads the explicit final statements (`#### x`, `\\boxed{x}`, `<answer>x</answer>`, "the answer is x", "Answer: x",
"A: x"), each of which must be one quantity, and all the same; without one, only a response that is nothing but a quantity.
It does NOT follow the working, look for a last number, evaluate an expression, read numbers in words, or convert units:
"$5", "5 apples", "5 cents" and "5%" are all 5, because golds carry no unit (so "25%" is right where the gold is 25, and
wrong where it is 0.25). Scale words are read: "5 thousand" is 5000, "6 dozen" is 72. That a response did not finish is for
the caller to see, by its finish reason.
"""
import argparse
import json
import os
import queue
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NamedTuple

from data import Example
from files import InputError, read_jsonl

LONGEST = 10_000  # characters of a response; the longest gold of GSM8K has 1,228
MOST = 10         # statements of an answer; who has more goes in circles
DIGITS = 40


class Verdict(NamedTuple):
    correct: bool
    reason: str  # a stable category, then ": " and the particulars


# -- Normalise: markdown and LaTeX to the text that a reader sees. No NFKC, which turns 7² into 72. -----------------------

CHARACTERS = str.maketrans({**dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"), "\u200b": "", "\ufeff": "",
                            "\xa0": " ", "\r": "\n", "’": "'", "‘": "'", "“": '"', "”": '"'})
EMPHASIS = r"(?<![A-Za-z0-9])(\*{1,3}|_{1,3}|`{1,3})(?=\S)([^*_`\n]*)(?<=\S)\1(?![A-Za-z0-9])"  # pairs: 6 * 7, 2**3 stay
WRAPPER = r"\\(?:text|math|mbox)[a-z]*\s?\{([^{}]*)\}"
MARKS = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator
REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (MARKS, ""), (r"(?m)^[ \t]*```[a-z]*[ \t]*$", ""), (EMPHASIS, r"\2"), (EMPHASIS, r"\2"),  # twice: **_72_**
    (r"\\([$%])", r"\1"), (r"\{,\}|,\\!", ","), (r"\\[()\[\],;: ]|\\quad", " "), (WRAPPER, r"\1"), (WRAPPER, r"\1"),
    (r"([0-9])\s*(?=\\[dt]?frac)", r"\1 "),  # 3\frac{1}{2} is 3 1/2, not 31/2
    (r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}", r"\1/\2 "),
    (r"\^(?:\\circ|\{\\circ\})", "°"), (r"(?<=[A-Za-z])\^(?:2\b|\{2\})", "²"), (r"(?<=[A-Za-z])\^(?:3\b|\{3\})", "³")]]


def plain(text):
    text = text.translate(CHARACTERS)
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    return text


# -- Quantity: sign, currency, number, scale, unit ------------------------------------------------------------------------

NUMBER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
SCALE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
QUANTITY = re.compile(
    r"\$* ?(?P<sign>[-+]?)(?:(?:US)?[$€£¥₹] ?)?"
    rf"(?:(?:(?P<whole>[0-9]+) +)?(?P<over>[0-9]+) ?/ ?(?P<under>[0-9]+)|(?P<number>{NUMBER}))"
    rf"(?: ?(?P<scale>{'|'.join(SCALE)})s?\b)?(?P<unit>[^0-9\n]*)", re.I)
LETTER = "[A-Za-zÀ-ÖØ-öø-ÿ]"
UNIT_WORD = re.compile(rf"[%°¢$€£(/]*{LETTER}+(?:['./-]{LETTER}+)*[²³]?[.)]*|[%°¢$€£/)]")
# Words that make a number something else than a plain answer, before or after it: negation, condition, hearsay, vagueness ...
DOUBT = (r"not|\w*n't|cannot|never|neither|nor|if|whether|suppose|assum\w+|wrong|incorrect|false|says?|said|claim\w*|thinks?"
         r"|thought|guess\w*|(?-i:may)|might|could|maybe|perhaps|possibl[ey]|probably|about|approx\w*|around|roughly|nearly"
         r"|almost|estimate\w*|another|alternative|previous|initial|least|between")
# ... and after it: alternatives, clauses, bounds, arithmetic, times, ordinals, scales and numbers in words.
NO_UNIT = (r"no|none|or|either|versus|vs|is|are|was|were|be|would|should|can|but|because|since|unless|except|which|than|most"
           r"|max\w*|minimum|below|above|under|(?<!left )over|negative|plus|minus|divided|multiplied|squared|cubed|factorial"
           r"|and (?:up|some|more|change|counting)|ish|[ap]\.?m|st|nd|rd|th|k|bn|mn|mil|grand|lakhs?|crores?|score|gross"
           r"|hundreds?|thousands?|[mbtr]+illions?|dozens?|half|halves|thirds?|quarter|twice|double|thrice|triple"
           r"|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?|(?:thir|four|fif|six|seven|eigh|nine)teen"
           r"|zero|one|two|three|four|five|six|seven|eight|nine|tens?|eleven|twelve|twenty|thirty|forty|fifty|sixty"
           r"|seventy|eighty|ninety"
           r"|^ ?(?-i:January|February|March|April|May|June|July|August|September|October|November|December)")
DOUBT, WORDS = re.compile(rf"\b(?:{DOUBT})\b|[≈~]", re.I), re.compile(rf"(?<![A-Za-z])(?:{DOUBT}|{NO_UNIT})\b", re.I)


def quantity(text):
    """The one number that `text` states, as a Fraction, or None. Golds go through it too: quantity("1,250") == 1250."""
    if len(text) > 200:
        return None
    text = plain(text).strip(" \t\n\"'").removesuffix(".").removesuffix("!").rstrip(" \"'$")
    match = QUANTITY.fullmatch(text)
    if not match or sum(map(str.isdigit, text)) > DIGITS or not is_unit(match["unit"], money=re.search("[$€£¥₹]", text)):
        return None
    if match["number"]:
        value = Fraction(match["number"].replace(",", ""))
    else:
        whole, over, under = int(match["whole"] or 0), int(match["over"]), int(match["under"])
        if under == 0 or match["whole"] and over >= under:
            return None
        value = whole + Fraction(over, under)
    return value * SCALE.get((match["scale"] or "").lower(), 1) * (-1 if match["sign"] == "-" else 1)


def is_unit(text, money):
    """Whether the text after a number leaves it as it is: a few words, none of which counts, compares, hedges or asserts."""
    words, letters = text.split(), re.findall(f"{LETTER}+", text)
    return (len(words) <= 8 and all(map(UNIT_WORD.fullmatch, words)) and not WORDS.search(text)
            and all(len(word) > 1 or word in "agmhslcLCF" for word in letters)  # 5 m is a length, 5x and 5n are algebra
            and not (money and letters[:1] == ["m"]))                           # $5m is five million


def last_side(statement):
    """The quantity of a statement, where `a = b = c` states c. The sides before it may be expressions, but not other answers."""
    statement = re.sub(r"(?i)^[\s:=]*(?:(?:therefore|thus|then|hence|simply|just|only|exactly|equal to|a total of)\b[\s:,]*)?",
                       "", statement)
    *sides, last = statement[:200].split("=")
    value = quantity(last) if len(statement) <= 200 else None
    for side in sides:
        if (not re.search(r"\w", side) or side.count("(") != side.count(")") or DOUBT.search(side)
                or re.search(r"(?i)[<>≤≥≠±?!;:]|,(?![0-9]{3})|[0-9] +[a-z] *$|\b(?:and|or|but|since|because)\b", side)
                or re.search(r"(?i)[0-9] (?!(?:of|x|times|plus|minus|(?:divided|multiplied) by) )[a-z ]+ [0-9]", side)):
            return None
        if not re.search(r"[A-Za-z%]", side + last) and quantity(side) not in (None, value):
            return None  # 73 = 72
    return value


# -- Statements: what the response says its answer is ---------------------------------------------------------------------

MARK = re.compile(r"\\(?:boxed|fbox)(?:\s?\{([^{}]*)\})?|<answer>(?:([^<]*)</answer>)?", re.I)  # unclosed: body ""
GLUED_BEFORE = re.compile(r"[-+*/^.,<>0-9][$€£]*\Z")  # -\boxed{5}
GLUED_AFTER = re.compile(rf"\$? ?(?:[.,]?[0-9]|[-+] ?[0-9]|[*/^²³½]|(?:or|k|{'|'.join(SCALE)})\b)", re.I)
LEAD = re.compile(r"""
    ^[ \t>#]*(?:the[ ])?(?:final[ ]|correct[ ])?answer[ \t]*$      # a heading: the answer stands on the next line
  | (?P<hashes> (?<!\#)\#{4}(?!\#) )
  | ^[ \t>-]*(?-i:A)[ ]?:
  | (?: ^ | [^\w\s/][ ]? | \b(?:the|my|our|so|thus|hence|therefore|then)[ ] ) (?:(?:final|correct|right|exact|numerical)[ ]){0,2}
    ans(?:wer)?\b (?:[ ](?:to|for|of|in)(?:[ ][^\s.,;:=]+){1,12}?)? [ ]?(?:\([^()\n]{0,40}\))?[ ]?
    (?: [:=]
      | \b(?:is|was|equals|(?:will|would|must|should|could|may|might|can|cannot)(?:n't|'t|[ ]not)?[ ]be)(?:n't)?\b[ ]?[:=]? )
""", re.I | re.M | re.X)


def statements(text):
    """(in doubt, body, all the text that follows) of each final statement. Headings and labels before the working are none."""
    found = []
    for mark in MARK.finditer(text):
        body, before, after = mark[1] or mark[2] or "", text[max(0, mark.start() - 100):mark.start()], text[mark.end():]
        if not LEAD.search(body):
            doubt = DOUBT.search(clause(before, 2)) or GLUED_BEFORE.search(before) or GLUED_AFTER.match(after)
            found.append((doubt, body, after))
    text = MARK.sub(lambda mark: mark[1] or mark[2] or "", text)  # "the answer is $\boxed{72}$" is read a second time
    leads = list(LEAD.finditer(text))
    for lead, following in zip(leads, leads[1:] + [None]):
        before, after = text[:lead.start()], text[lead.end():].lstrip()
        own_line = "\n" in text[lead.end():len(text) - len(after)]
        line, newline, _ = text[lead.end():following and following.start()].lstrip().partition("\n")
        body = line if lead["hashes"] or own_line else re.split(r"""[.!]["')*_`$]*(?=\s|$)""", line, maxsplit=1)[0]
        if following and not newline and body == line and not re.search("[0-9]", body) and not WORDS.search(body):
            continue  # "#### The final answer is 72": the next lead has the answer
        heading = lead["hashes"] and re.match(r"[A-Za-z]|[0-9]+[.)]\s+[A-Za-z]", body) and not WORDS.search(body)
        if heading and quantity(body) is None:
            continue  # "#### Step 1", "#### 1. Count the clips"
        label = lead[0].rstrip().endswith((":", "nswer")) and (own_line or not re.search(r"\w", before))
        if label and re.match(r"[A-Za-z]\S*(?:\s+\S+){4}", body):
            continue  # "Answer: Natalia sold 48/2 = 24 clips in May. …"
        if own_line and "=" in body and following:
            continue  # "Answer:\n48/2 = 24\n …"
        found.append((DOUBT.search(clause(before[-100:] + lead[0], 3 if lead["hashes"] else 100)), body, after[len(body):]))
    return found


def clause(text, words):
    """The last words of the clause that ends the text."""
    return " ".join(re.split(r"[.,;:!?\n]", text.rstrip(" :="))[-1].split()[-words:])


# -- Verdict --------------------------------------------------------------------------------------------------------------

RUN_ON = re.compile(r"""
    \? | <\| | \[/?INST | ^[ \t>-]*B:                                         # a question, a turn, or the second of some options
  | \b(?:question|problem|q|exercise|example|instruction|input|response|user|human|assistant)[ ]?[0-9]{0,4}[ ]?:
  | \b(?:question|problem|exercise|example)[ ][0-9] | \b(?:next|new|another)[ ](?:question|problem)
  | \#[ ]?(?:question|problem|instruction|input|response|user|example)
""", re.I | re.M | re.X)
TAKEN_BACK = re.compile(r"\b(?:wait|actually|oops|hmm+|sorry|correction|wrong|incorrect|mistaken?|instead|disregard|ignore)\b"
                        r"|(?:\bnot|n't) (?:right|correct|sure|true|quite|the)\b|(?:^|[.!\n]) ?(?:no|not|or|but)\b", re.I)


def numeric(response, example):
    """Whether the response states the number example.check["answer"] as its final answer, and nothing else."""
    gold = quantity(example.check["answer"])
    if gold is None:
        raise InputError(f"the answer {example.check['answer'][:60]!a} is not one quantity")
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    text = plain(response).strip()
    if not text:
        return Verdict(False, "empty")
    found = statements(text)
    if len(found) > MOST:
        return Verdict(False, f"run-on: more than {MOST} statements")
    values = [last_side(body) for _, body, _ in found] or [quantity(text)]
    for (doubt, body, _), value in zip(found, values):
        if doubt or value is None:
            return Verdict(False, f"{'in doubt' if doubt else 'not one quantity'}: {body[:60]!a}")
    if values == [None]:
        return Verdict(False, "no final answer")
    if len(set(values)) > 1:
        return Verdict(False, f"answers disagree: {', '.join(map(str, dict.fromkeys(values)))}")
    afters = sorted((after for _, _, after in found), key=len) or [""]
    for category, pattern, after in ("run-on", RUN_ON, afters[-1]), ("taken back", TAKEN_BACK, afters[0]):
        if match := pattern.search(after):
            return Verdict(False, f"{category}: {after[match.start():][:60]!a}")
    return Verdict(True, "right") if values[0] == gold else Verdict(False, f"wrong number: {values[0]} is not {gold}")


def substance(response, gold):
    """How much of a gold solution a paraphrase keeps, calculator marks `<<…>>` left out on both sides.

    length: words of the response for each word of the gold. numbers: the share of the gold's distinct numbers that stand in
    the response, signs and grouping aside; 1.0 where it has none. copy: equal but for case, punctuation and white space.
    """
    texts = [MARKS.sub("", text).translate(CHARACTERS) for text in (response, gold)]
    ours, golds = ({Fraction(n.replace(",", "")) for n in re.findall(NUMBER, text) if len(n) <= DIGITS} for text in texts)
    words, gold_words = (re.findall(r"\w+", text.casefold()) for text in texts)
    return {"length": len(texts[0].split()) / max(1, len(texts[1].split())),
            "numbers": len(golds & ours) / len(golds) if golds else 1.0, "copy": words == gold_words}


# -- Exact match ----------------------------------------------------------------------------------------------------------

def exact(response, example):
    """Whether the response is example.check["answer"], but for white space and case: classification and the like."""
    said, gold = (" ".join(text.casefold().split()) for text in (response, example.check["answer"]))
    return Verdict(True, "right") if said == gold else Verdict(False, f"another text: {said[:60]!a}" if said else "empty")


# -- Judges by name, and their command line -------------------------------------------------------------------------------

# What the rows of a judge hold beside "response": {field: (kind, value where it is absent; None: it has to be there)}.
JUDGES = {
    "numeric": (numeric, {"answer": (str, None)}),
    "exact": (exact, {"answer": (str, None)}),
}
KINDS = {str: "a text", bool: "true or false", list: "a list of texts"}


def check_fields(fields, row):
    """{field: value} of a row; InputError names the field that is missing or of another kind."""
    values = {name: row.get(name, default) for name, (_, default) in fields.items()}
    for name, (kind, _) in fields.items():
        if not isinstance(values[name], kind) or kind is list and not all(isinstance(v, str) for v in values[name]):
            raise InputError(f'"{name}" should be {KINDS[kind]}')
    return values


def main():
    parser = argparse.ArgumentParser(description="Judge rows of responses: one JSON verdict a row, in order, on stdout.")
    parser.add_argument("judge", choices=JUDGES)
    parser.add_argument("rows", metavar="ROWS.jsonl", help="or - for a pipe")
    args = parser.parse_args()
    judge, fields = JUDGES[args.judge]
    rows = []  # (line number, response, check, label); all of them are read before the first is judged
    for number, row in read_jsonl("/dev/stdin" if args.rows == "-" else args.rows):
        try:
            label = check_fields({"correct": (bool, None)}, row)["correct"] if "correct" in row else None
            rows.append((number, check_fields({"response": (str, None)}, row)["response"], check_fields(fields, row), label))
        except InputError as error:
            raise InputError(f"{args.rows}:{number}: {error}; mend this row")

    def judge_row(row):
        number, response, check, _ = row
        try:
            return judge(response, Example(str(number), "", "", check))
        except InputError as error:
            raise InputError(f"{args.rows}:{number}: {error}; mend this row")
    pairs = []  # (verdict, label)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for verdict, (*_, label) in zip(pool.map(judge_row, rows), rows):
            print(json.dumps(verdict._asdict()), flush=True)
            pairs += [(verdict.correct, label)] if label is not None else []
    if pairs:
        print(f"{len(pairs)} rows, {sum(said == label for said, label in pairs)} agreements, "
              f"{pairs.count((True, False))} false accepts, {pairs.count((False, True))} false rejects", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"judges.py: {error}", file=sys.stderr)
        sys.exit(2)
