"""Judges: would a careful human keep this whole response as a training target?

A judge is a function (response, example) -> Verdict. They lean to "wrong": a false "right" poisons the training set, a false "wrong"
costs one paraphrase. Nothing that a model wrote is evaluated here, and the time is linear in its length.

    python judges.py JUDGE ROWS.jsonl    prints one JSON verdict a row, in order. JUDGE and the fields of its rows:
        numeric      "response", "answer", optionally "prompt"
        exact        "response", "answer"; equal but for case and white space
        reading      "response", "answers", optionally "question"; without answers it is unanswerable
        code         "response", "tests", optionally "setup"
        model:DIR    "response", "prompt", "gold"; the checkpoint in DIR says whether response and gold agree
    Where rows carry "correct", true or false, a last line on stderr counts agreements.

`numeric` reads the explicit final statements (`#### x`, `\\boxed{x}`, `<answer>x</answer>`, "the answer is x", "Answer: x", "A: x"),
each of which must be one quantity, and all the same; without one, only a response that is nothing but a quantity. It does NOT follow
the working, look for a last number, evaluate an expression, read numbers in words, see whether the response is finished, or convert
units: "$5", "5 apples" and "5%" are all 5, because golds carry no unit ("25%" is right where the gold is 25, wrong where it is 0.25).

`reading` is for short answers about a passage. Right is a response that equals a gold but for case, accents, punctuation, spacing,
grouping commas, number words ("forty-two"), the order of a date, an opening article or preposition; or one that names one gold once
while every other word is the question's or a function word, neither negated nor hedged, with a few checks of the order ("Bonn was
replaced by Berlin"). Where there is no gold, each sentence has to abstain. It does NOT read the passage, parse sentences ("the sun is
Rigel" passes where one asked what is bigger than the sun), or know synonyms, parts of a name, lists of golds, or other units.

`code` runs the Python of a response in sandbox.py and holds the values of its functions against asserts of the form that MBPP has. It
does NOT take asserts with loops, comprehensions or helpers of their own, or look at style, speed (ten seconds of CPU time) and what is
printed. Where programs cannot be isolated it refuses to run them.
"""
import argparse
import ast
import builtins
import functools
import hashlib
import json
import os
import re
import sys
import textwrap
import threading
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NamedTuple

import sandbox
from data import Example
from files import InputError, read_jsonl

LONGEST, DIGITS = 10_000, 40  # characters of a response (the longest gold of GSM8K has 1,228), digits of a quantity


class Verdict(NamedTuple):
    correct: bool
    reason: str  # a stable category, then ": " and the particulars


# -- Numeric: a quantity is a sign, a currency, a number, a scale and a unit ----------------------------------------------
# Words for numbers.
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
        "nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine",
            "twelfth": "twelve", **{f"{one}th": one for one in ONES}, **{f"{ten[:-1]}ieth": ten for ten in TENS}}
SCALE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
MONTH = r"\b(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)(?:uary|ruary|ch|il|ust|ember|ober)?\b"
# Markdown and LaTeX, and what a reader sees of them. No NFKC, which turns 7² into 72.
CHARACTERS = str.maketrans({**dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"), "\u200b": "", "\ufeff": "",
                            "\xa0": " ", "\r": "\n", "’": "'", "‘": "'", "“": '"', "”": '"'})
MARKS = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator
REWRITES = [
    (MARKS, ""), (r"(?m)^[ \t]*```[a-z]*[ \t]*$", ""),
    (r"(?<![A-Za-z0-9])(\*{1,3}|_{1,3}|`{1,3})(?=\S)([^*_`\n]*)(?<=\S)\1(?![A-Za-z0-9])", r"\2"),  # in pairs: 6 * 7 stays
    (r"\\([$%])", r"\1"), (r"\{,\}|,\\!", ","), (r"\\[()\[\],;: ]|\\quad", " "), (r"\\(?:text|math|mbox)[a-z]*\s?\{([^{}]*)\}", r"\1"),
    (r"([0-9])\s*(?=\\[dt]?frac)", r"\1 "), (r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}", r"\1/\2 "),  # 3\frac{1}{2} is 3 1/2
    (r"\^(?:\\circ|\{\\circ\})", "°"), (r"(?<=[A-Za-z])\^(?:[23]\b|\{[23]\})", "²")]                    # a unit's exponent
# A quantity, and what may stand in its unit: 5 m is a length, 5x and 5n are algebra.
NUMBER = r"(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
LETTERS = "(?:[A-Za-zÀ-ÖØ-öø-ÿ]{2,}|(?-i:[agmhslcLCF]))"
WORD = rf"(?:[%°¢$€£(/]*{LETTERS}(?:['./-]{LETTERS})*[²³]?[.)]*|[%°¢$€£/)])"
QUANTITY = re.compile(rf"""
    \$* [ ]? (?P<sign>[-+]?) (?:(?:US)? [$€£¥₹] [ ]?)?
    (?:(?P<whole>[0-9]+) [ ]+ (?=[0-9]+[ ]?/[ ]?[0-9]))? (?P<over>{NUMBER}) (?:[ ]?/[ ]?(?P<under>[0-9]+))?
    (?:[ ]? (?P<scale>{'|'.join(SCALE)})s?\b)?
    (?P<unit>(?:[ ]*{WORD} (?:[ \t]+{WORD}){{0,7}})?)""", re.I | re.X)
# What makes a number no plain answer, before or after it: negation, condition, hearsay, vagueness.
DOUBT = (r"not|\w*n't|cannot|never|if|whether|suppose|assum\w+|wrong|incorrect|false|says?|said|claim\w*|thinks?|thought|guess\w*"
         r"|(?-i:may)|might|could|maybe|perhaps|possibl[ey]|probably|presumably|about|approx\w*|around|roughly|almost|estimate\w*|another|least|between"
         r"|doubt\w*|den(?:y|ies)|unlikely|impossible|hardly|no way|disagree\w*|pretend|imagine|(?:of|than|twice|half|double) (?:the|my|our) (?:\w+ )?answer")
# And after it: alternatives, clauses, bounds, arithmetic, times, other numbers.
NO_UNIT = (r"no|none|or|either|is|are|was|were|be|would|should|can|but|because|since|unless|except|which|than|most|max\w*|minimum"
           r"|below|above|under|(?<!left )over|negative|plus|minus|divided|multiplied|squared|cubed|and (?:up|some|more|change)|ish"
           r"|[ap]\.?m|st|nd|rd|th|bn|mn|mil|bil|tril|thou|grand|lakhs?|crores?|half|halves|quarter|twice|double|triple|tens|[mbtr]+illions?"
           rf"|(?:{'|'.join([*SCALE, *[*ORDINALS][2:]])})(?:s|ths?)?|{'|'.join(ONES + TENS)}|^ ?{MONTH}")
DOUBT, WORDS = re.compile(rf"\b(?:{DOUBT})\b|[≈~]", re.I), re.compile(rf"(?<![A-Za-z])(?:{DOUBT}|{NO_UNIT})\b", re.I)
FILLER = re.compile(r"^[\s:=]*(?:(?:therefore|thus|then|hence|simply|just|only|exactly|equal to|a total of)\b[\s:,]*)?", re.I)
OPERATOR = re.compile(r"[-+*/×÷^]|(?<=[0-9])\(|\\(?:times|cdot|div)\b|(?<=[0-9%]) of\b"
                      r"|\b(?:x|times|plus|minus|(?:divided|multiplied) by)\b", re.I)


def rewrite(text, rules):
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text


def plain(text):
    return rewrite(text.translate(CHARACTERS), REWRITES * 2)  # **_72_**


def quantity(text):
    """The one number that `text` states, as a Fraction, or None. Golds go through it too: quantity("1,250") == 1250."""
    size, text = len(text), plain(text[:200]).strip(" \t\n\"'").removesuffix(".").removesuffix("!").rstrip(" \"'$")
    match = QUANTITY.fullmatch(text)
    if (not match or size > 200 or sum(map(str.isdigit, text)) > DIGITS or WORDS.search(match["unit"])
            or re.search("[$€£¥₹]", text) and re.match(r" ?m\b", match["unit"], re.I)):  # $5m is five million
        return None
    whole, over, under = (Fraction((part or "0").replace(",", "")) for part in match.group("whole", "over", "under"))
    if match["under"] and not under or match["whole"] and over >= under:
        return None
    return (whole + over / (under or 1)) * SCALE.get((match["scale"] or "").lower(), 1) * (-1 if match["sign"] == "-" else 1)


def last_side(statement):
    """The quantity of a statement. `a = b = c` states c, if the other sides are operators between quantities, and names."""
    *sides, last = FILLER.sub("", statement, 1).split("=")
    value = quantity(last) if len(statement) <= 200 else None
    for side in sides if value is not None else []:
        parts = [re.sub("^[A-Za-z' ]*", "", part.strip(" ()$")).strip(" ()") for part in OPERATOR.split(side)]
        if (not re.search(r"\w", side) or re.search(r"[!?]|\b(?:and|or|but|since|because)\b", side, re.I) or DOUBT.search(side)
                or any(part and quantity(part) is None for part in parts)
                or quantity(side.strip(" ()$")) not in (None, value) and not re.search(r"[A-Za-z%]", side + last)):  # 73 = 72
            return None
    return value


# -- Numeric: statements, what the response says its answer is ------------------------------------------------------------
MARK = re.compile(r"\\(?:boxed|fbox)(?:\s?\{([^{}]*)\})?|<answer>(?:([^<]*)</answer>)?", re.I)  # unclosed: body ""
LEAD = re.compile(r"""
    ( ^[ \t>#]*(?:the[ ])?(?:final[ ]|correct[ ])?answer[ \t]*$      # a heading: the answer stands on the next line
      | (?P<hashes> (?<!\#)\#{4}(?!\#) )
      | ^[ \t>-]*(?-i:A)[ ]?:
      | (?: ^ | [^\w\s/][ ]? | \b(?:the|my|our|so|thus|hence|therefore|then)[ ] ) (?:(?:final|correct|right|exact|numerical)[ ]){0,2}
        ans(?:wer)?\b (?:[ ](?:to|for|of|in)(?:[ ][^\s.,;:=]+){1,12}?)? [ ]?(?:\([^()\n]{0,40}\))?[ ]?
        (?: [:=] | \b(?P<verb>is|was|equals|(?!fail|used)(?:[\w']+[ ]){1,2}be)(?:n't)?\b[ ]?[:=]? )
    ) \s*""", re.I | re.M | re.X)
SIGN = r"\\(?:times|cdot|div|neq?|leq?|geq?)\b"
# Around a statement, which stands as \0: parts of a larger number or expression. A dash after a word is none: "Answer - \boxed{72}".
GLUED = re.compile(rf"[-+*/^.,<>0-9][$€£]*\0|(?:[0-9=)}}%][ $]*-|\S[ $]*(?:[+*/^<≠≤≥×÷]|(?<![-=])>|{SIGN}))[\\ $€£]*\0"
                   rf"|\0\$? ?(?:[.,]?[0-9]|[-+] ?[0-9]|[*/^²³½×÷]|{SIGN}|(?:x|times|plus|minus|to) ?\$?[0-9]|(?:or|k|{'|'.join(SCALE)})\b)", re.I)
TURN = "(?:question|problem|exercise|example|instruction|input|response|user|human|assistant)"
RUN_ON = re.compile(r"\?|<\||\[/?INST|^[ \t>-]*B:"  # a question, a turn, the second of some options
                    rf"|(?:\b(?:next|new|another) |# ?){TURN}|\b(?:{TURN}|q) ?[0-9]{{0,4}} ?:|\b{TURN} [0-9]", re.I | re.M)
TAKEN_BACK = re.compile(r"\b(?:wait|actually|oops|hmm+|sorry|correction|wrong|incorrect|mistaken?|instead|disregard|ignore|however|although|nope"
                        r"|hold on|second thought|scratch|impossible|false|re-?check|should (?:be|have))\b"
                        r"|(?:\bnot|n't) (?:right|correct|sure|true|quite|the)\b|(?:^|[.!\n]) ?(?:no|not|or|but)\b", re.I)


def statements(text):
    """(the text before, body, all the text after) of each final statement. Headings and labels before the working are none."""
    found = [(text[max(0, mark.start() - 100):mark.start()], mark[1] or mark[2] or "", text[mark.end():])
             for mark in MARK.finditer(text) if not LEAD.search(mark[1] or mark[2] or "")]
    text = MARK.sub(lambda mark: mark[1] or mark[2] or "", text)  # "the answer is $\boxed{72}$" is read a second time
    leads = list(LEAD.finditer(text))
    for lead, following in zip(leads, leads[1:] + [None]):
        line, own_line = text[lead.end():following and following.start()].partition("\n")[0], "\n" in lead[0]
        body = line if lead["hashes"] or own_line else re.split(r"""[.!]["')*_`$]*(?=\s|$)""", line, maxsplit=1)[0]
        label = not lead["hashes"] and not lead["verb"] and (own_line or not re.search(r"\w", text[:lead.start()]))
        described = lead["verb"] and re.match(r"the(?: [A-Za-z']+)+$", body.rstrip(" .:"), re.I) and not WORDS.search(body)
        heading = lead["hashes"] and re.match(r"(?!US\$)[A-Za-z]|[0-9]+[.)]\s+[A-Za-z]", body) and not WORDS.search(body)
        if (following and not body.strip("-*> ") or heading or described         # "#### The answer is 72"; "#### Step 1"; "is the total cost"
                or label and (re.match(r"(?:[-*] )?[A-Za-z]\S*(?:\s+\S+){4}", body) or following and own_line and "=" in body)):
            continue
        found.append((text[max(0, lead.start() - 100):lead.end(1)], body, text[lead.end() + len(body):]))
    return found


def doubted(before, prompt):
    """Whether the clause at the end of `before` holds a word of doubt that does not restate the prompt, as "the number who do not swim is" does.

    A doubt restates it if the prompt has the same words from there to the next word of content: "not swim", "if he sells", "between the first".
    """
    clause = " ".join(re.split(r"[.,;:!?\n]", before.rstrip(" :="))[-1].split()[-10:])
    for doubt in DOUBT.finditer(clause):
        words = without(tokens(clause[doubt.start():]), GRAMMAR)
        size = next((i for i, word in enumerate(words, 1) if word not in GRAMMAR and not DOUBT.search(word)), None)
        if (size is None or "answer" in words                                    # "might be 72"; "I do not think the answer is 72"
                or not re.fullmatch(r"[^\W\d_]+|[0-9]+th", words[size - 1])       # "between 5 and 72"; tokens() has 1th for "first"
                or f" {' '.join(words[:size])} " not in f" {' '.join(tokens(prompt))} "):
            return True
    return False


def numeric(response, example):
    """Whether the response states the number example.check["answer"] as its final answer, and nothing else. What restates example.prompt
    is no doubt of it."""
    gold = quantity(example.check["answer"])
    if gold is None:
        raise InputError(f"the answer {example.check['answer'][:60]!a} is not one quantity")
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    text = plain(response).strip()
    found = statements(text)
    if len(found) > 10:
        return Verdict(False, "run-on: more than 10 statements")
    values = [last_side(body) for _, body, _ in found] or [quantity(text)]
    for (before, body, after), value in zip(found, values):
        doubt = doubted(before, example.prompt) or GLUED.search(f"{before[-9:]}\0{after[:9]}")  # 10\boxed{5}
        if doubt or value is None:
            return Verdict(False, f"{'in doubt' if doubt else 'not one quantity'}: {body[:60]!a}")
    if values == [None]:
        return Verdict(False, "no final answer" if text else "empty")
    if len(set(values)) > 1:
        return Verdict(False, f"answers disagree: {', '.join(map(str, dict.fromkeys(values)))}")
    afters = sorted((after for _, _, after in found), key=len) or [""]
    for category, pattern, after in ("run-on", RUN_ON, afters[-1]), ("taken back", TAKEN_BACK, afters[0]):
        if match := pattern.search(after):
            return Verdict(False, f"{category}: {after[match.start():][:60]!a}")
    return Verdict(True, "right") if values[0] == gold else Verdict(False, f"wrong number: {values[0]} is not {gold}")


# -- Numeric: the working, as far as it is equations of plain numbers -------------------------------------------------------
# The pieces of a left side; what may be a right side; words before a number that make it part of something larger: "20% of 50 + 5".
PIECE = re.compile(rf"(?P<number>{NUMBER})|(?P<operator>\\(?:times|cdot|div)|[-+*×÷]|/(?! ?[A-Za-z]{{2}})|\bx\b|(?<=[0-9])x(?=[0-9]))"
                   r"|(?P<unit>/? ?[A-Za-zÀ-ÿ²]{2,}(?:['./-]?[A-Za-zÀ-ÿ²])*)|(?P<else>[^ $])")
RESULT = re.compile(rf"[ $]*(-?)[ $]*({NUMBER})(?!\.?[0-9]| ?[-+*/×÷^(:%\\]| ?x ?[$0-9]| ?[A-Za-z]\b|[A-Za-z ]+(?:[-+*×÷] ?[$0-9]|\\(?:times|cdot|div)))")
TIED = re.compile("of|by|times|twice|half|than|plus|minus|and", re.I)


def computed(left):
    """The value, a Fraction, of the sums and products of numbers, with or without units, in which a text ends; None where it ends otherwise."""
    pieces = list(PIECE.finditer(left[-200:]))
    kinds = "".join(piece.lastgroup[0] for piece in pieces)                  # n(umber), o(perator), u(nit), e(lse)
    found = re.search(r"(?<![no])nu*(?:onu*)+$", kinds)                      # not 1 1/2 * 60, not x + 2 + 3
    before = pieces[found.start() - 1][0].strip() if found and found.start() else ":"
    if not found or TIED.fullmatch(before) or re.fullmatch(r"[^\w:,([{]", before):
        return None
    operator, total, term = "+", Fraction(0), Fraction(0)
    for piece in pieces[found.start():]:
        if piece.lastgroup == "operator":
            operator = piece[0]
        elif piece.lastgroup == "number":
            number = Fraction(piece[0].replace(",", ""))
            if operator in "+-":
                total, term = total + term, -number if operator == "-" else number
            elif operator in ("/", "÷", "\\div"):
                if not number:
                    return None
                term /= number
            else:
                term *= number
    return total + term


def false_equations(text):
    """How many equations do not hold, of those with one operation or more before the sign and one number after it: by more than half a
    unit of its last place (a hundredth where something is divided). Not read: algebra, percentages, brackets, mixed numbers, sums on the right."""
    faults = 0
    for line in plain(text[:LONGEST]).split("\n"):
        sides = line.split("=")
        for left, right in zip(sides, sides[1:]):
            if (result := RESULT.match(right[:DIGITS])) and (value := computed(left)) is not None:
                sign, number = result[1], result[2].replace(",", "")
                gap = abs(value - Fraction(sign + number))
                rounded = abs(value) / 100 if re.search(r"[/÷]|\\div", left) else 0
                faults += gap > max(rounded, Fraction(1, 2 * 10 ** len(number.partition(".")[2])))
    return faults


def substance(response, gold):
    """What a paraphrase keeps of a gold solution, and adds, calculator marks left out. length: words for each word of the gold. numbers: the
    share of its distinct numbers that stand in the response, signs and grouping aside; 1.0 where it has none. copy: equal but for
    case, punctuation and white space. reference: it speaks of the reference, which stands in the request alone. false equations: their number."""
    texts = [MARKS.sub("", text[:LONGEST]).translate(CHARACTERS) for text in (response, gold)]
    ours, golds = ({Fraction(n.replace(",", "")) for n in re.findall(NUMBER, text) if len(n) <= DIGITS} for text in texts)
    words, gold_words = (re.findall(r"\w+", text.casefold()) for text in texts)
    spoken, known = (bool(re.search(r"\breference (?:solution|response|answer)", text, re.I)) for text in texts)
    return {"length": len(texts[0].split()) / max(1, len(texts[1].split())),
            "numbers": len(golds & ours) / len(golds) if golds else 1.0, "copy": words == gold_words,
            "reference": spoken and not known, "false equations": false_equations(response)}


def exact(response, example):
    """Whether the response is example.check["answer"], but for white space and case: classification and the like."""
    said, gold = (" ".join(text.casefold().split()) for text in (response, example.check["answer"]))
    return Verdict(True, "right") if said == gold else Verdict(False, f"another text: {said[:60]!a}" if said else "empty")


# -- Reading: text as tokens that keep what a number, a unit and a name mean ----------------------------------------------
def figures(match):
    """"two hundred forty two" and "3.5 million" in figures."""
    value = 0
    for word in match[0].split():
        value = value * SCALE[word] if word in SCALE else value + Fraction(CARDINALS.get(word, word))
    return str(value)


CARDINALS = dict(zip(ONES, range(20))) | dict(zip(TENS, range(20, 100, 10)))
BELOW_100 = rf"(?:(?:{'|'.join(TENS)})(?: (?:{'|'.join(ONES[1:10])}))?|{'|'.join(ONES)})"
SPELLINGS = [  # of the text
    ("⁄", "/"), ("&", " and "), (r"\b(?:cannot|ca ?n't)\b", "can not"), (r"\bwo ?n't\b", "will not"), (r" ?n't\b", " not"),
    (r"\b([a-z])\s?\.\s?(?=[a-z]\s?\.)", r"\1"),  # J. R. R. Tolkien, U.S.
    (r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])", lambda match: match[0].replace(",", "")),
    ("[-—]+", "-"), (r"(?<=[^\W\d_])( *)-\1(?=[0-9])", " "), (r"-(?! *[$€£]?\.?[0-9])", " ")]  # it stays as a minus or a range
TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)+|(?<!\w)\.[0-9]+|[0-9]+(?:st|nd|rd|th)\b|[0-9]+|'s\b|[^\W\d_][^\W_]*"
                   r"|[^\s!\"'(),.:;?\[\]{}*_`|«»¿¡·。、]")  # all but punctuation
REWORDINGS = [  # of the tokens, one space apart
    (r"\bper ?cent\b", "%"), (rf"\b(?:{'|'.join(ORDINALS)})\b", lambda match: f"{ORDINALS[match[0]]} th"),
    (rf"(?<!\.)\b(?:{BELOW_100}(?: hundred(?: {BELOW_100})?)?|[0-9]{{1,12}}(?:\.[0-9]{{1,6}})?"
     rf"(?= (?:{'|'.join(SCALE)})\b)(?: hundred)?)(?: (?:{'|'.join(SCALE)}))?\b", figures),
    (r"\b([0-9]+) ?(?:st|nd|rd|th)\b", r"\1th"), (r"\bminus (?=[0-9])", "- "), (r"(?:\bfrom )?\b([0-9]+) to (?=[0-9])", r"\1 - "),
    (rf"\b([0-9]{{1,2}})(?:th)? (?:of )?{MONTH}(?! [0-9]{{1,2}}\b)", r"\2 \1"),
    (rf"{MONTH} ([0-9]+)(?:th)?\b", lambda match: f"{match[1][:3]} {match[2]}")]
FORMS = {form: verb for verb, *forms in map(str.split, (
    "write wrote written, sing sang sung, win won, make made, build built, begin began begun, hold held, take took taken, come came, "
    "become became, give gave given, find found, lead led, draw drew drawn, say said, go went gone, choose chose chosen, lay laid, "
    "run ran, beat beaten, shoot shot, fight fought, teach taught, lose lost, know knew known").split(",")) for form in forms}


def tokens(text):
    """The words and signs of a text, whatever its case, accents, quotes and commas, numbers in figures, months before days."""
    text = re.sub("[¼-¾⅐-⅟]", r" \g<0>", re.sub("[²³¹⁰-⁹]+", r"^\g<0>", text.translate(CHARACTERS)))  # 7² is not 72
    text = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text)[:LONGEST].casefold())  # ﷺ is 18 letters
    return rewrite(" ".join(TOKEN.findall(rewrite(text, SPELLINGS))), REWORDINGS).split()


def stem(word):
    """One form, more or less, for the forms of a verb or a noun: "wrote" and "written", "play" and "plays"."""
    return re.sub(r"(..)(?:ing|ies|ied|ed|es|s|e|(?<![aeou])y)$", r"\1", FORMS.get(word, word))


def without(words, leading):
    """The words without the leading ones, if any remain."""
    return words[next((i for i, word in enumerate(words) if word not in leading), 0):]


# -- Reading: what may stand around an answer -----------------------------------------------------------------------------
ARTICLES, ASKING, NEGATIONS = {"a", "an", "the"}, set("who whom whose which what when where why how".split()), {"not", "no", "never"}
BE, DO, PLACING = set("is are was were be been being am 's".split()), {"do", "does", "did"}, {"in", "on", "at", "during"}
AIMING = set("of before after than until since over under near around".split())  # they point away from what follows
OPENING = ARTICLES | PLACING | {"by", "to", "for", "from", "as"}
GRAMMAR = {"", *ARTICLES, *ASKING, *BE, *DO, *PLACING, *("it he she they its his her their this as that because called named known "
           "year has have had by from of will get got these there").split()}
TURNING = set("and or not no never neither nor none either but except without unless may might could would should".split())
FRAME = re.compile(r"(?:(?:(?:according to|based on|from) (?:the|this) (?:passage|text|context)|(?:the|this) (?:passage|text) "
                   r"(?:says|states) that) )?(?:(?:the |a )?(?:(?:final|correct) )?answer (?:to the question )?(?:is )?)?")
ABSTENTION = re.compile(r"""\b(?:unanswerable|unknown|not\ in\ the\ (?:passage|text|context)
    | (?:no|insufficient|not\ enough)\ (?:answer|information|mention)
    | not(?:\ \w{3,}ly)?(?:\ (?:be|been|possible\ to|have|enough))*(?:\ (?:an?|the|any))?\ (?:answer(?:ed|able)?|say|said|stated?
    | mention(?:ed)?|specif(?:y|ied)|provided|given|tell|told|included|indicated?|discuss(?:ed)?|determined?|find|found|know|clear
    | information | (?:provide|contain|give|include|have)(?=(?:\ \w+){0,3}\ (?:answer|information|details?|it|this)\b)))\b""", re.X)
SOURCE = set("passage text context answer information".split())
ABSENT = GRAMMAR | set("to for passage answer text context question article information any enough given provides provided contained "
                       "available possible can i we based according regarding about using how so whether".split())


def foreign(words, question, grammar):
    """The first word that is neither grammar nor the question's. A word that turns the sense has to stand as in the question."""
    asked, phrases = set(map(stem, question)), set(zip(question, question[1:], question[2:]))
    for phrase in zip(["", *words], words, [*words[1:], ""]):
        word, turns = phrase[1], phrase[1] in TURNING or not phrase[1][:1].isalnum() and phrase[1] != "%"
        if word not in grammar and (stem(word) not in asked or turns and phrase not in phrases):
            return word
    return ""


def abstains(response, question):
    """Whether each sentence says that the passage has no answer, and nothing else. One that denies the question's own verb of something
    states a fact: "It was not found in Rome", asked where it was found."""
    abstained, asked = 0, set(map(stem, question))
    for sentence in map(tokens, re.split(r"(?:\n|[.!;]+(?!\w))\W*", response)):
        if sentence:
            rest, abstained = ABSTENTION.subn("is", text := " ".join(sentence))
            fact = (not SOURCE & {*sentence} and not ABSENT >= {*rest.split()}
                    and all(stem(found.split()[-1]) in asked for found in ABSTENTION.findall(text)))
            if not abstained or fact or foreign(rest.split(), [] if "unanswerable" in sentence else question, ABSENT):
                return False
    return abstained > 0 and "?" not in response


def fault(before, answer, after, question):
    """What speaks against a response that consists of the words before, in and after an answer; "" if nothing does."""
    before = without(before[::-1], ARTICLES)[::-1]
    last, words = before[-1] if before else "", [*before, "", *after]  # "": the answer
    stray, asked = foreign(words, question, GRAMMAR), set(question)
    end = without(question[::-1], ARTICLES)[:1]                             # of "tea comes from the ?": ["from"]
    amount = last == "of" and answer[0][0] in "$€£0123456789"  # "a population of 500"
    name = re.escape(" ".join(answer))                                      # "the plough" of "…, the plough or the wheel ?", which offers two
    offer = re.search(rf"(\S+) or {name}(?!\S)|(?<!\S){name} or (\S+)", " ".join(word for word in question if word not in ARTICLES))
    faults = [
        (stray, f"more than the answer: {stray[:60]!a}"),
        (last in AIMING and [last] != end and "made" not in before and not amount, f"before the answer: {last!a}"),
        (offer and {offer[1], offer[2]} & set(words), "the other of the two that were asked about"),
        (after[:1] in (["a"], ["'s"]), f"after the answer: {''.join(after[:1])!a}"),
        ("by" in words and "by" not in asked and (last == "by") == bool(DO & set(question[1:])), "who did it to whom"),
        (not (BE | DO) & asked and last not in BE | {"by"} and set(before) - GRAMMAR and (ASKING & asked or [last] != end),
         "the order of the words"),                                          # "Carla beat Dana"; not for a question that its answer completes
        (NEGATIONS & asked and not NEGATIONS & set(words) and set(words) - GRAMMAR, "a dropped negation")]
    return next((reason for wrong, reason in faults if wrong), "")


def reading(response, example):
    """Whether the response gives one of the answers in example.check, or abstains where there is none, and says nothing else."""
    answers, question = example.check.get("answers") or [], tokens(example.check.get("question") or "")
    golds = [tokens(answer) for answer in answers]
    if [] in golds:
        raise InputError(f"the answer {answers[golds.index([])][:60]!a} has no words")
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    found = tokens(response)
    if not golds:
        return Verdict(True, "right") if abstains(response, question) else Verdict(False, "no abstention")
    if "?" in response and "?" not in "".join(answers) or {*question[:1]} & ASKING and " ".join(question) in " ".join(found):
        return Verdict(False, "a question")
    said = found[len(FRAME.match(" ".join(found))[0].split()):]
    forms = [form for gold in golds for form in (gold, without(gold, ARTICLES), without(gold, OPENING))]
    if found in forms or without(said, ARTICLES) in forms:
        return Verdict(True, "right")
    if abstains(response, question):
        return Verdict(False, "abstains")
    spans = {(i, i + len(form)) for form in forms if {*form} - GRAMMAR - {"yes", "no"}
             for i in range(len(said)) if said[i:i + len(form)] == form}
    if not spans:
        return Verdict(False, "another answer, or in other words" if found else "empty")
    start, end = max(spans, key=lambda span: span[1] - span[0])
    if any(stop <= start or end <= begin for begin, stop in spans):
        return Verdict(False, "several answers")
    flaw = fault(said[:start], without(said[start:end], ARTICLES), said[end:], question)
    return Verdict(not flaw, flaw or "right")


# -- Code -----------------------------------------------------------------------------------------------------------------
warnings.filterwarnings("ignore", module="<unknown>")  # "\\d" in the string of an assert
FENCE = re.compile(r"^[ \t]*(([`~])\2\2+(?!\2))([^`\n]*)(?:\n|\Z)(.*?)(?:^[ \t]*\1\2*[ \t\r]*$|\Z)", re.M | re.S)
# All that an assert may hold around the calls of the program's functions: names, what modules define, and kinds of syntax.
NAMES = set("abs all any bool dict float frozenset int isinstance len list max min next range reversed round set sorted str sum tuple "
            "type zip Counter".split())
MODULES = {"collections", "math", "re", "sys"}
SYNTAX = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call,
          ast.keyword, ast.Subscript, ast.Slice, ast.expr_context, ast.unaryop, ast.operator, ast.boolop, ast.cmpop)


def code(response, example, unsafe=False):
    """Whether the program in the response passes all asserts of example.check["tests"], run after it and check["setup"]. It does not
    hold what is expected of it: its functions are called in the sandbox, and plain values come back. It may exit, print, or replace
    every builtin: that changes the values, or there are none. unsafe: see sandbox.require."""
    setup = example.check.get("setup", "")
    tests = [split_test(f"test {number}", text, setup) for number, text in enumerate(example.check["tests"], 1)]
    if not tests:
        raise InputError('"tests" should be a list with an assert in it')
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    values, reason = None, "no code"
    for program in programs(response):
        values, reason = sandbox.run(program, setup, [call for calls, _ in tests for call in calls], unsafe=unsafe)
        if not reason.startswith(("syntax error", "raised")):
            break
    if values is None:
        return Verdict(False, reason)
    for number, (calls, rest) in enumerate(tests, 1):
        mine, values = values[:len(calls)], values[len(calls):]
        try:
            shown = "" if holds(rest, mine, unsafe) else ascii(mine[0])
        except (ValueError, IndexError) as error:  # an int too long to show, fewer values than calls
            shown = type(error).__name__
        if shown:
            return Verdict(False, f"wrong value: test {number}: {shown[:60]}")
    return Verdict(True, "right")


def programs(response):
    """The Python in a response, in the ways to read it that are worth a try: all fenced blocks that are tagged as Python or
    untagged, joined; and, as an untagged block may be output, the tagged ones alone. Without a fence, the text as it is."""
    fenced = FENCE.findall(response) or [("", "", "", response)]
    blocks = [(re.match(r"[{.]*([^\s:,}]*)", tag.strip())[1].lower(), textwrap.dedent(text)) for *_, tag, text in fenced]
    blocks = [(tag, text) for tag, text in blocks if tag in ("", "python", "py", "python3")
              and text.strip() and not text.lstrip().startswith(">>>")]  # no sessions
    ways = ["\n".join(text for _, text in blocks), "\n".join(text for tag, text in blocks if tag)]
    return [way for way in dict.fromkeys(ways) if way]


def holds(rest, values, unsafe):
    """Whether the rest of an assert is true of the values of its calls. `value[0] == literal`, as nearly all are, is compared here;
    anything else in a second sandbox, which holds nothing of the program but these values."""
    left, equals, right = rest.partition(" == ")
    try:
        if equals and left == "value[0]":
            return values[0] == ast.literal_eval(right)
    except (ValueError, TypeError):  # more than a literal, or a list as a key
        pass
    source = ", ".join(f"iter({[*value]})" if hasattr(value, "__next__") else hex(value) if type(value) is int else repr(value)
                       for value in values)
    program = f"import {', '.join(MODULES)}\nfrom collections import Counter\nfrom math import inf, nan\nvalue = [{source}]"
    return sandbox.run(program, "", [f"bool({rest})"], cpu_seconds=2, unsafe=unsafe).values == [True]


def split_test(where, text, setup):
    """(calls, rest) of an assert: the expressions that the program has to evaluate, and the code around their `value[…]`. A call of a
    name that Python and the setup do not know, with all that it is chained to (`f(x).y()`), is the program's; so is `sum(1, 2)` in
    `assert sum(1, 2) == 3`, where nothing else is. The rest may hold NAMES, MODULES and SYNTAX only."""
    calls = []

    def refuse(what):
        raise InputError(f"{where}, {text.strip()[:60]!a}, {what}")

    def is_the_programs(node):
        root = isinstance(node, (ast.Call, ast.Attribute, ast.Subscript)) and re.match(r"(\w+)[.(\[]", ast.unparse(node))
        return root and root[1] not in known

    class Rest(ast.NodeTransformer):
        def visit(self, node):
            if is_the_programs(node):
                calls.append(ast.unparse(node))
                return ast.Name(f"value[{len(calls) - 1}]")
            if isinstance(node, (ast.Name, ast.Attribute)):
                first, dot, others = ast.unparse(node).partition(".")
                name = aliases.get(first, first) + dot + others
                if name not in NAMES and not re.fullmatch(rf"(?:{'|'.join(MODULES)})\.\w+", name):
                    refuse(f"holds {name[:60]!a}, whose value only a program has")
                return ast.Name(name)
            if not isinstance(node, SYNTAX):
                refuse(f"is too much for the comparison of values ({type(node).__name__})")
            return self.generic_visit(node)

    try:
        (statement,), given = ast.parse(text.strip()).body or [None], ast.parse(setup).body
        if not isinstance(statement, ast.Assert):
            refuse("is not an assert")
        aliases = {name.asname or name.name: f"{getattr(node, 'module', None) or ''}.{name.name}".lstrip(".")
                   for node in given if isinstance(node, (ast.Import, ast.ImportFrom)) for name in node.names}
        known, test = {*NAMES, *MODULES, *dir(builtins), *aliases, *(getattr(node, "name", "") for node in given)}, statement.test
        if not any(map(is_the_programs, ast.walk(test))) and isinstance(test, ast.Compare) and isinstance(test.left, ast.Call):
            known.discard(ast.unparse(test.left.func))
        rest = ast.unparse(Rest().visit(test))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        refuse(f"is not one assert, or its setup is not Python ({type(error).__name__})")
    return (calls, rest) if calls else refuse("has no call of a function to test")


# -- A model as judge -----------------------------------------------------------------------------------------------------
AGREE = ("{tag} Question:\n{question}\n\n{tag} Answer 1:\n{first}\n\n{tag} Answer 2:\n{second}\n{tag}\n\n"
         "Do answer 1 and answer 2 give the same final answer to the question? Reply with Yes or No.")
MARGIN = 1.0  # of log p(Yes) - log p(No): below it, a model of half a billion weights accepts wrong programs (NOTES.md)
FREE = set("a an the my our final correct solution answer response result is was are it this that here so sure ok okay yes no "
           "well of course i think thus therefore question problem gold reference code python none null".split())


def by_model(model, tokenizer):
    """A judge: whether `model` says, whichever of the two comes first, that the response and example.gold agree. The odds are those of
    the next token, Yes against No, and have to reach MARGIN in both orders: models favour one place (Wang et al. 2023, arXiv
    2305.17926). The answers stand between marks that their authors cannot know, and what says nothing ("Solution:") is rejected
    unasked: such text draws a Yes from many models (Zhao et al. 2025, arXiv 2507.08794)."""
    import numpy as np  # here alone: the other judges need neither these nor torch
    import sampler
    yes, no = ({tokenizer.encode_text(word)[0] for word in words} for words in (("Yes", " Yes", "yes"), ("No", " No", "no")))
    yes, no = sorted(yes - no), sorted(no - yes)  # a piece that begins both words says neither
    lock = threading.Lock()  # one question at a time: the tokenizer has a state

    def judge(response, example):
        said, gold = (re.findall(r"\w+", text.casefold()) for text in (response[:LONGEST], example.gold))
        if len(response) > LONGEST:
            return Verdict(False, f"too long: {len(response)} characters")
        if said != gold and {*said} <= FREE:
            return Verdict(False, f"says nothing: {response[:60]!a}")
        tag = hashlib.blake2b(f"{response}\0{example.gold}".encode(errors="replace"), digest_size=6).hexdigest()
        with lock:
            prompts = [tokenizer.prompt_ids(AGREE.format(tag=tag, question=example.prompt, first=first, second=second))
                       for first, second in ((response, example.gold), (example.gold, response))]
            if max(map(len, prompts)) > model.config.context:
                return Verdict(False, "too long for the judge's context")
            values = sampler.logprobs(model, [p for p in prompts for _ in yes + no], [[token] for _ in prompts for token in yes + no])
        rows = np.array(values).reshape(2, -1)                               # (2 orders, yes and no)
        odds = np.logaddexp.reduce(rows[:, :len(yes)], axis=1) - np.logaddexp.reduce(rows[:, len(yes):], axis=1)
        agree = bool(min(odds) >= MARGIN)
        return Verdict(agree, f"{'agree' if agree else 'disagree'}: log odds {odds[0]:.2f}, {odds[1]:.2f}")
    return judge


# -- Judges by name, and their command line -------------------------------------------------------------------------------
# What the rows of a judge hold beside "response": {field: (kind, value where it is absent; None: it has to be there)}.
JUDGES = {
    "numeric": (numeric, {"answer": (str, None), "prompt": (str, "")}),
    "exact": (exact, {"answer": (str, None)}),
    "reading": (reading, {"answers": (list, []), "question": (str, "")}),
    "code": (code, {"tests": (list, None), "setup": (str, "")}),
    "model": (by_model, {"prompt": (str, None), "gold": (str, None)})}  # makes a judge of a checkpoint
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
    parser.add_argument("judge", metavar="JUDGE", help="numeric, exact, reading, code, or model:DIR with a checkpoint")
    parser.add_argument("rows", metavar="ROWS.jsonl", help="or - for a pipe")
    parser.add_argument("--unsafe-code", action="store_true", help="code: run programs even where they cannot be isolated")
    args = parser.parse_args()
    name, _, path = args.judge.partition(":")
    if name not in JUDGES or (name == "model") != bool(path):
        parser.error(f"{args.judge!r} is not one of numeric, exact, reading, code, model:DIR")
    judge, fields = JUDGES[name]
    if name == "model":
        import model
        judge = by_model(*model.load(path))
    if name == "code":
        print(f"programs run under {', '.join(sandbox.require(args.unsafe_code))}", file=sys.stderr)
        judge = functools.partial(code, unsafe=args.unsafe_code)

    def name_row(number, function, *values):
        try:
            return function(*values)
        except InputError as error:
            raise InputError(f"{args.rows}:{number}: {error}; mend this row")

    rows, pairs = [], []  # (line number, response, example, label), all of them read before the first is judged; (verdict, label)
    for number, row in read_jsonl("/dev/stdin" if args.rows == "-" else args.rows):
        check = name_row(number, check_fields, {"response": (str, None), **fields, "correct": (bool, False)}, row)
        example = Example(str(number), check.get("prompt", ""), check.get("gold", ""), check)
        rows.append((number, check["response"], example, row.get("correct")))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for verdict, (*_, label) in zip(pool.map(lambda row: name_row(row[0], judge, *row[1:3]), rows), rows):
            print(json.dumps(verdict._asdict()), flush=True)
            pairs += [(verdict.correct, label)] if label is not None else []
    if pairs:
        print(f"{len(pairs)} rows, {sum(said == label for said, label in pairs)} agreements, "
              f"{pairs.count((True, False))} false accepts, {pairs.count((False, True))} false rejects", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"judges.py: {error}", file=sys.stderr)
        sys.exit(2)
