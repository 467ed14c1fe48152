"""Judges: is this response right, whatever its words and its length?

A judge is a function (response, example) -> Verdict. Its time is linear in the length. Only `code`
evaluates what a model wrote, in the sandbox. `python judges.py JUDGE ROWS.jsonl` prints a JSON
verdict a row; a row has "response" and the fields that JUDGES, below, lists. Where rows carry
"correct", true or false, a last line on stderr counts agreements.
"""

import argparse
import ast
import builtins
import contextlib
import functools
import json
import os
import re
import sys
import textwrap
import threading
import unicodedata
import zlib
from collections import namedtuple
from fractions import Fraction

import sandbox
from data import Example, user
from files import InputError, read_jsonl

LONGEST = 10_000  # characters of a response; longer ones are not read
DOUBT = set(
    "not never no none nor neither except unless instead without unlike rather or either if maybe "
    "might could cannot perhaps possibly probably likely unlikely unclear doubt suppose".split()
)
Verdict = namedtuple("Verdict", "correct reason")  # reason: a category, then ": " and particulars
RIGHT = Verdict(True, "right")

# Numeric: each statement of the answer has to be one quantity, and all of them the same

CHARACTERS = str.maketrans("\u2212\u2010\u2011\u2013\u2019\xa0\r", "----' \n", "\u200b\ufeff")
CALCULATOR = r"<<[^<>\n]*>>"
MARKUP = [  # (pattern, what a reader sees of it)
    (CALCULATOR, ""),  # 48 + 24 = <<48+24=72>>72
    (r"</?(?:b|i|em|strong)>", ""),  # <b>72</b>
    (r"\\(?:text|math|mbox)[a-z]*\s?\{([^{}]*)\}", r"\1"),  # 72 \text{ clips}
    (r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}", r" \1/\2 "),  # \frac{144}{2}
    (r"\{,\}|,\\!", ","),  # 1{,}250
    (r"\\[()\[\],;: ]|\\(?=[$%])", " "),  # \(72\), 25\%
    (r"(-?)\\boxed\s?\{([^{}]*)\}", r"\\boxed \1\2}"),  # \boxed{72}
    (r"(?<![0-9*_`])[*_`]+(?![ *_`])|(?<![ *_`])[*_`]+(?![0-9*_`])", ""),  # **72**, not 6 * 12
]
LEADS = [  # what stands before a statement
    r"(?<!#)#{4}(?!#)",  # #### 72
    r"\\boxed",  # \boxed{72}
    r"<answer>",  # <answer>72</answer>
    r"^[ >-]*a ?:",  # A: 72
    # So the final answer to the question (in dollars) is: 72
    r"(?:^ *|(?<=[.!?;:)]) ?|[^\w\s/.!?;:)] ?|\b(?:the|my|our|so|thus|hence|therefore) )"
    r"(?:(?:final|correct) ){0,2}"
    r"ans(?:wer)?\b(?: (?:to|for|of) [^.,:?\n]{1,99}?)?(?: \([^()\n]{1,40}\))?"
    r" ?(?:(?:is|was|(?:must|should) be)\b ?:?|[:=]|$)",
]
LEAD = re.compile(rf"(?:(?:{'|'.join(LEADS)})[\s$]*)+", re.I | re.M)
HEADING = re.compile(r"[-\s]*(?:[a-z](?! ?[=<>≤≥≠\\])|$)|.*=[ $]*$", re.I)  # "#### Step 1"
END = re.compile(  # of a statement: a sentence, a line, or a box before words that leave it alone
    r"[.!]['\")\]]*(?=\s|$)|\n|</|\}(?=[^\w\\]{0,40}(?:$|(?!or\b|and a half|hundred|thousand"
    r"|million|billion|dozen)[a-z]{2,}\b(?! [$0-9])))",
    re.I,
)
GLUED = re.compile(r"(?:[-+*/^0-9]|[0-9)] - |[+*/^] |\\(?:times|cdot|[nlg]eq?) )\$?\Z")  # 10 - 72
ODD = re.compile(r"[>?!;]|,(?![0-9])|\([^)]{0,200}$")  # left of "=": "x > 2", an open bracket
GOES_ON = re.compile(  # it is taken back, or another question follows
    r"\b(?:wait|actually|sorry|correction|mistake|wrong|incorrect|however|oops|hold on|how many)\b"
    r"|not (?:right|correct)|(?:^ ?|[.!] )(?:no|but|or)\b|<\||\[INST|^b ?:"
    r"|\b(?:question|problem|example|instruction|user|human|q) ?[0-9]{0,3} ?(?::|$)",
    re.I | re.M,
)
NUMBER = r"(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
QUANTITY = re.compile(  # a number, then a unit of words ("72 g", not 72 x) without digits or signs
    rf"(?P<sign>[-+]?) ?[$€£]? ?(?P<number>{NUMBER})(?: ?/ ?(?P<under>[0-9]+))?"
    r"(?P<unit>(?:[a-zà-ÿ]{2,}(?![a-zà-ÿ])|[aghmslcf](?![a-zà-ÿ])"
    r"|[ %°¢$€£/(),.'\"]|(?<=[a-z])-(?=[a-z]))*)",
    re.I,
)
UNSURE = DOUBT | set(
    "about around approx approximately roughly nearly almost least most between up than below half "
    "quarter twice plus minus divided squared since because unknown wrong incorrect impossible "
    "possible guess false dozen hundred thousand million billion st nd rd th ≈ ~ < ≤ ≥ ≠".split()
)


def clean(text):
    """The text as a reader sees it, without Markdown, HTML and LaTeX."""
    text = text.translate(CHARACTERS) if len(text) <= LONGEST else ""
    for pattern, seen in MARKUP:
        text = re.sub(pattern, seen, text, flags=re.I)
    return text.strip()


def unsure(text, last=0):
    """Whether the text, or its last so many words, hold a word of doubt."""
    words = re.findall(r"[a-zà-ÿ]+|[≈~<≤≥≠]", text.lower().replace("n't", " not"))
    return not UNSURE.isdisjoint(words[-last:])


def quantity(text):
    """The one number that a text states, as a Fraction, or None. "$1,250 a week" is 1250."""
    text = clean(text).strip(" \n\"'`|\\()[]{}$€£").rstrip(".,;:!")
    match = QUANTITY.fullmatch(text) if len(text) <= 200 else None
    if not match or unsure(match["unit"]) or not int(match["under"] or 1):
        return None
    value = Fraction(match["number"].replace(",", "")) / int(match["under"] or 1)
    return -value if match["sign"] == "-" else value


def statements(text):
    """[(text before, body, text after)] of the explicit answers, else of the last sentence."""
    found = []
    parts = LEAD.split(text)
    for before, part in zip(parts, parts[1:]):
        body, *after = END.split(part, maxsplit=1)
        if not HEADING.match(body) or unsure(body):
            found.append((before, body, "".join(after)))
    sentence = re.split(r"(?<=[.!?])\s+|\n+", text)[-1]
    number = re.search(r"(?<![^\s(\"'])-?[$€£]?\.?[0-9]", sentence)
    if not found and number and not unsure(sentence):
        start = 0 if "=" in sentence else number.start()
        found = [("", sentence[start:], "")]
    return found


def numeric(response, example):
    """Whether the response states the number example.check["answer"] as its answer."""
    gold = quantity(example.check["answer"])
    if gold is None:
        raise InputError(f"the answer {example.check['answer'][:60]!a} is not one quantity")
    found = statements(clean(response))
    values = set()
    for before, body, _ in found:
        left, _, last = body.rpartition("=")  # "a = b = c" states c
        values.add(quantity(last))
        clause = re.split(r"[.,;:!?=\n]", before)[-1]  # I don't think | the answer is
        if unsure(left) or unsure(clause, last=2) or ODD.search(left) or GLUED.search(before):
            return Verdict(False, f"in doubt: {body[:60]!a}")
    if len(values) != 1 or None in values:
        return Verdict(False, f"not one quantity: {[body for _, body, _ in found]!a:.80}")
    after = GOES_ON.search(found[-1][2])
    if after:
        return Verdict(False, f"goes on: {after[0]!a}")
    return RIGHT if gold in values else Verdict(False, f"another number: {body[:60]!a}")


def after_thought(text):
    """What follows the last thought: models think between <think> and </think>."""
    return text.rpartition("</think>")[2]


def lacks_substance(paraphrase, gold, numeric):
    """Why a paraphrase cannot stand for gold, or "". A numeric one has to keep the work."""
    texts = [re.sub(f"{CALCULATOR}|,", "", text) for text in (paraphrase, gold)]
    words, gold_words = (re.findall(r"\w+", text.casefold()) for text in texts)
    numbers, gold_numbers = (set(re.findall(NUMBER, text)) for text in texts)
    if words == gold_words:
        return "copies gold"
    if numeric and len(words) < len(gold_words) / 2:
        return "less than half as long as gold"
    if numeric and len(numbers & gold_numbers) < len(gold_numbers) / 2:
        return "fewer than half of gold's numbers"
    return ""


def exact(response, example):
    """Whether the response is example.check["answer"], but for white space and case."""
    same = response.casefold().split() == example.check["answer"].casefold().split()
    return RIGHT if same else Verdict(False, f"another text: {response[:60]!a}")


def one_spelling(label):
    """Case is ignored, except in labels of one letter: "A" is not "a"."""
    words = " ".join(label.translate(CHARACTERS).split())
    return words.lower() if len(words) > 1 else words  # as re.I compares: ß is not ss


def label(response, example):
    """Whether the response names the right label and no other one, and denies nothing.

    example.check: "answer", the right label, and "labels", all of them.
    """
    gold, named, rest = find_labels(response, example)
    doubts = DOUBT & set(re.findall(r"\w+", rest.lower().replace("n't", " not")))
    if named != {gold}:
        return Verdict(False, f"another label: {sorted(named)!a:.60}")
    return Verdict(False, f"in doubt: {min(doubts)}") if doubts else RIGHT


def find_labels(response, example):
    """(right label, labels that the response names, what is left of it)"""
    gold = one_spelling(example.check["answer"])
    labels = {gold, *map(one_spelling, example.check["labels"])}
    rest = response.translate(CHARACTERS) if len(response) <= LONGEST else ""
    named = set()
    for each in sorted(labels, key=lambda each: (-len(each), each)):  # "not spam" before "spam"
        words = r"\s+".join(map(re.escape, each.split()))
        case = re.I if len(each) > 1 else 0
        alone = rf"(?<![\w-])(?<![0-9][.,]){words}(?![\w-]|[.,][0-9])"  # no part of "72.5"
        rest, count = re.subn(alone, "", rest, flags=case)
        if count:
            named.add(each)
    return gold, named, rest


# Reading: a sentence has to hold a gold answer, and to add no doubt

SPELLINGS = [  # (pattern, the one spelling that is compared)
    ("[\u0300-\u036f]", ""),  # accents, as in Lodī
    (r" ?n't\b", " not"),  # do n't
    (r" 's\b", "'s"),  # Devil 's
    (r"\bu ?\. ?s\b|\bunited states\b", "us"),
    (r"(?<=[0-9]),(?=[0-9]{3})", ""),  # 97,500
    (r"(?<=[0-9])(?:st|nd|rd|th)\b", ""),  # July 4th
    (r"\b([0-9]{1,2}) (?:of )?((?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w*)", r"\2 \1"),
]
TOKEN = re.compile(
    r"(?<![^\s(])-?[0-9]+(?:\.[0-9]+)*|[0-9]+(?:\.[0-9]+)*|[^\W\d_]+(?:'s\b)?|[%$€£+#°]"
)
FIGURES = "zero one two three four five six seven eight nine ten eleven twelve".split()
LEADING = set("in on at by from during to for as".split())  # gold "in the 1890s" is "1890s" too
ABSTAINS = re.compile(  # the passage does not explicitly state …
    r"(?<!not )\bunanswerable\b|\b(?:not|no|cannot)(?: \w+| possible to)? (?:answer\w*|sa(?:y|id)"
    r"|stated?|mention\w*|specif(?:y|ied)|provided?|contain\w*|determined?|know|information)\b"
)


def tokens(text):
    """The words, numbers and signs of a text in one spelling, without articles."""
    text = text.translate(CHARACTERS) if len(text) <= LONGEST else ""
    text = unicodedata.normalize("NFKD", text).casefold()
    for pattern, spelling in SPELLINGS:
        text = re.sub(pattern, spelling, text)
    found = [str(FIGURES.index(t)) if t in FIGURES else t for t in TOKEN.findall(text)]
    return [token for token in found if token not in ("a", "an", "the")] or found


def split_sentences(text):
    """The tokens of each sentence; "Dr. Miles R. Bronson" is no end of one."""
    parts = re.split(r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?]\s+(?=\W?[A-Z])|\n+", text)
    return [" ".join(tokens(part)) for part in parts if tokens(part)]


def abstentions(response):
    """For each sentence: does it say that the question has no answer?"""
    return [bool(ABSTAINS.search(sentence)) for sentence in split_sentences(response)]


def reading(response, example):
    """Whether the response holds an answer of example.check["answers"]; without any, abstains."""
    answers = example.check.get("answers", [])
    golds = [tokens(answer) for answer in answers]
    if [] in golds:
        raise InputError(f"the answer {answers[golds.index([])][:60]!a} has no words")
    said = tokens(response)
    if response.rstrip().endswith("?") and "?" not in "".join(answers):
        return Verdict(False, "a question")
    if said in golds:
        return RIGHT
    if not 0 < len(said) <= 60:
        return Verdict(False, "empty, or more than 60 words")
    golds = [gold[1:] if gold[0] in LEADING and gold[1:] else gold for gold in golds]
    sentences = split_sentences(response)
    abstaining = [ABSTAINS.search(sentence) for sentence in sentences]
    if not golds:
        return RIGHT if all(abstaining) else Verdict(False, "no abstention")
    if any(abstaining):
        return Verdict(False, "abstains")
    known = set(tokens(example.check.get("question", ""))).union(*golds)
    reason = "another answer"
    for sentence in [*sentences, " ".join(said)]:  # a gold may hold a full stop
        if any(f" {' '.join(gold)} " in f" {sentence} " for gold in golds):
            doubts = DOUBT & set(sentence.split()) - known
            if not doubts:
                return RIGHT
            reason = f"in doubt: {min(doubts)}"
    return Verdict(False, reason)


# Code: the program gives values, and the asserts are held here

FENCE = re.compile(r"^ *(`{3,9}|~{3,9}) *(\w*)[^\n]*\n(.*?)(?:^ *\1|\Z)", re.M | re.S)
MODULES = ["collections", "math", "re", "sys"]  # that an assert may use without an import


def code(response, example, unsafe=False):
    """Whether the response's program passes the asserts of example.check["tests"].

    The program never sees what is expected: it is asked for the values of its calls. It may exit,
    print or replace builtins; that changes its values. unsafe: see sandbox.require.
    """
    setup = example.check.get("setup", "")
    tests = [split_test(text, setup) for text in example.check["tests"]]
    if not tests:
        raise InputError('"tests" should be a list with an assert in it')
    blocks = [(tag.lower(), textwrap.dedent(text)) for _, tag, text in FENCE.findall(response)]
    python = [text for tag, text in blocks if tag in ("python", "py", "python3")]
    python = python or [text for tag, text in blocks if not tag] or [response]
    calls = sum((calls for calls, _ in tests), [])
    values, reason = sandbox.run("\n".join(python), setup, calls, unsafe=unsafe)
    if values is None:
        return Verdict(False, reason)
    for number, (calls, rest) in enumerate(tests, 1):
        if not holds(rest, values[: len(calls)], setup, unsafe):
            return Verdict(False, f"wrong value: test {number}")
        values = values[len(calls) :]
    return RIGHT


def split_test(text, setup):
    """(calls, rest) of an assert: what the program evaluates, and what is asked of the values.

    The program's are all names that Python and the setup do not know, with their calls.
    """
    known = {*dir(builtins), *MODULES, *re.findall(r"\w+", setup)}
    calls = []

    class Split(ast.NodeTransformer):
        def visit(self, node):
            if isinstance(node, (ast.comprehension, ast.Lambda, ast.NamedExpr)):
                raise ValueError("names of its own")
            root = node
            while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and root.id not in known:
                calls.append(ast.unparse(node))
                return ast.Name(f"value[{len(calls) - 1}]")
            return self.generic_visit(node)

    try:
        (statement,) = ast.parse(text.strip()).body
        names = [node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)]
        if known.issuperset(names):  # `assert sum(1, 2) == 3` is about the program's own `sum`
            known.remove(names[0])
        return calls, ast.unparse(Split().visit(statement.test))
    except (SyntaxError, ValueError, LookupError, AttributeError, RecursionError, MemoryError):
        raise InputError(f"the test {text.strip()[:60]!a} is not one assert about a call")


def holds(rest, values, setup, unsafe):
    """Whether an assert is true of the values. All but `== literal` is left to a second sandbox."""
    left, _, right = rest.partition(" == ")
    with contextlib.suppress(ValueError, TypeError, SyntaxError):  # more than a literal
        if left == "value[0]":
            return values[0] == ast.literal_eval(right)
    try:
        code = f"import {', '.join(MODULES)}\nfrom math import inf, nan\nvalue = {values!r}"
    except ValueError:  # an int of more digits than Python shows
        return False
    outcome = sandbox.run(code, setup, [f"bool({rest})"], cpu_seconds=2, unsafe=unsafe)
    return outcome.values == [True]


# A model as judge

AGREE = (
    "{tag} Question:\n{}\n\n{tag} Answer 1:\n{}\n\n{tag} Answer 2:\n{}\n{tag}\n\n"
    "Do answer 1 and answer 2 give the same final answer to the question? Reply with Yes or No."
)
MARGIN = 1.0  # of log p(Yes) - log p(No); below it a small model accepts wrong programs
EMPTY = set("a the my final correct solution answer response is it this so yes no code".split())


def by_model(model, tokenizer):
    """A judge: whether the model says that the response and example.gold agree.

    It is asked in both orders, as models favour one place (Wang et al. 2023, arXiv 2305.17926), and
    not about "Solution:", which draws a Yes from many (Zhao et al. 2025, arXiv 2507.08794).
    """
    import sampler  # for this judge alone

    lock = threading.Lock()

    def judge(response, example):
        said, gold = (re.findall(r"\w+", t.casefold()) for t in (response, example.gold))
        if said != gold and EMPTY.difference(gold).issuperset(said):
            return Verdict(False, f"says nothing: {response[:60]!a}")
        tag = zlib.crc32(f"{response}\0{example.gold}".encode(errors="replace"))  # in no answer
        odds = []
        for pair in (response, example.gold), (example.gold, response):
            messages = user(AGREE.format(example.question, *pair, tag=tag))
            # The first tokens of both answers, after a thought if the template closes one.
            words = [tokenizer.target_ids(messages, word) for word in ("Yes", "No")]
            at = len(os.path.commonprefix(words))
            prompt = tokenizer.prompt_ids(messages) + words[0][:at]
            if len(prompt) > model.config.max_position_embeddings:
                return Verdict(False, "too long for the model")
            firsts = [word[at : at + 1] for word in words]
            with lock:  # each call uses all cores
                yes, no = sampler.logprobs(model, [prompt] * 2, firsts)
            odds.append(yes - no)
        return Verdict(min(odds) >= MARGIN, f"log odds: {odds[0]:.2f}, {odds[1]:.2f}")

    return judge


# Judges by name, and their command line

JUDGES = {  # name: (judge, {field of a row: (kind, default or None)})
    "numeric": (numeric, {"answer": (str, None)}),
    "exact": (exact, {"answer": (str, None)}),
    "label": (label, {"answer": (str, None), "labels": (list, None)}),
    "reading": (reading, {"answers": (list, []), "question": (str, "")}),  # []: unanswerable
    "code": (code, {"tests": (list, None), "setup": (str, "")}),
    "model": (by_model, {}),  # by_model makes a judge; it needs the question and gold alone
}
KINDS = {str: "a text", list: "a list of texts"}


def check_fields(fields, row):
    """{field: value} of a row. InputError names a field that is missing or of another kind."""
    values = {}
    for name, (kind, default) in fields.items():
        value = row.get(name, default)
        if kind is str and type(value) in (int, float):  # {"answer": 72}
            value = str(value)
        if not isinstance(value, kind) or (kind is list and set(map(type, value)) - {str}):
            raise InputError(f'"{name}" should be {KINDS[kind]}')
        values[name] = value
    return values


def main():
    parser = argparse.ArgumentParser(description="Print one JSON verdict a row, in order.")
    parser.add_argument("judge", choices=[name for name in JUDGES if name != "model"])
    parser.add_argument("rows", metavar="ROWS.jsonl")
    parser.add_argument("--unsafe-code", action="store_true", help="run code without isolation")
    args = parser.parse_args()
    judge, fields = JUDGES[args.judge]
    if judge is code:
        print("layers:", ", ".join(sandbox.require(args.unsafe_code)), file=sys.stderr)
        judge = functools.partial(code, unsafe=args.unsafe_code)
    labels = []  # (verdict, label) of the rows that have one

    def judge_row(number, row):
        check = check_fields({"response": (str, None), **fields}, row)
        response = after_thought(check["response"])
        verdict = judge(response, Example(str(number), user(""), "", check))
        print(json.dumps(verdict._asdict()), flush=True)
        if isinstance(row.get("correct"), bool):
            labels.append((verdict.correct, row["correct"]))

    read_jsonl(args.rows, judge_row)
    if labels:
        accepts, rejects = labels.count((True, False)), labels.count((False, True))
        text = f"{accepts} false accepts, {rejects} false rejects"
        agreements = len(labels) - accepts - rejects
        print(f"{len(labels)} rows, {agreements} agreements, {text}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"judges.py: {error}", file=sys.stderr)
        sys.exit(2)
