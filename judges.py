"""Judges: would a careful human keep this whole response as a training target?

A judge is a function (response, example) -> Verdict. They lean to "wrong": a false "right" poisons the training set, a
false "wrong" costs one paraphrase. Nothing a model wrote is evaluated, and the time is linear in its length.

    python judges.py numeric ROWS.jsonl     rows {"response", "answer"}, optionally "correct": true or false
    python judges.py code ROWS.jsonl        rows {"response", "tests"}, optionally "setup", "correct"
    python judges.py reading ROWS.jsonl     rows {"response", "answers"}, optionally "question", "correct"
    python judges.py exact ROWS.jsonl       rows {"response", "answer"}, optionally "correct"
    python judges.py model:DIR ROWS.jsonl   rows {"response", "prompt", "gold"}, optionally "correct"

prints one JSON verdict a row, in order, and, where rows carry "correct", a last line on stderr that counts agreements.

`numeric` reads the explicit final statements (`#### x`, `\\boxed{x}`, `<answer>x</answer>`, "the answer is x", "Answer: x",
"A: x"), each of which must be one quantity, and all the same; without one, only a response that is nothing but a quantity.
It does NOT follow the working, look for a last number, evaluate an expression, read numbers in words, or convert units:
"$5", "5 apples", "5 cents" and "5%" are all 5, because golds carry no unit (so "25%" is right where the gold is 25, and
wrong where it is 0.25). Scale words are read: "5 thousand" is 5000, "6 dozen" is 72. That a response did not finish is for
the caller to see, by its finish reason.

`code` runs the Python of a response in sandbox.py and holds the values of its functions against asserts, of the form that
MBPP has: calls compared with values. It does NOT take asserts with loops, comprehensions or helpers of their own, or look at
style, speed (ten seconds of CPU time) and what the program prints. Where programs cannot be isolated it refuses to run them.

`reading` is for short answers about a passage. Right is a response that equals a gold but for case, accents, punctuation,
spacing, grouping commas, number words ("forty-two"), the order of a date, an opening article or preposition; or one that names
one gold once while every other word is the question's or a function word, neither negated nor hedged, with a few checks of the
order ("Bonn was replaced by Berlin"). Where there is no gold, each sentence has to abstain. It does NOT read the passage, parse
sentences ("the sun is Rigel" passes where one asked what is bigger than the sun), or know synonyms, aliases, parts of a name
("Washington"), lists made of several golds, or other units.

`exact` is equality but for case and white space. `model` (`by_model`) asks a checkpoint whether response and gold agree.
"""
import argparse
import ast
import builtins
import functools
import hashlib
import json
import math
import operator
import os
import re
import sys
import textwrap
import threading
import warnings
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import sandbox
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


# -- Reading: text as tokens that keep what a number, a unit and a name mean ----------------------------------------------

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NAMED = {**{word: n for n, word in enumerate(ONES)}, **{word: 10 * n for n, word in enumerate(TENS, 2)}}
RANKED = {**{word: n for n, word in enumerate(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), 1)},
    **{word + "th": n for word, n in NAMED.items() if 12 < n < 20}, **{word[:-1] + "ieth": NAMED[word] for word in TENS}}
BELOW_100 = rf"(?:(?:{'|'.join(TENS)})(?: (?:{'|'.join(ONES[1:10])}))?|{'|'.join(ONES)})"
LARGE = "thousand|million|billion|trillion"
MONTH = (r"\b(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
         r"|nov(?:ember)?|dec(?:ember)?)\b")
TOKEN = re.compile(r"[0-9]+(?:\.[0-9]+)+|(?<!\w)\.[0-9]+|[0-9]+(?:st|nd|rd|th)\b|[0-9]+|'s\b|[^\W\d_][^\W_]*"
                   r"|[^\s!\"'(),.:;?\[\]{}*_`|«»¿¡·。、]")  # all but punctuation


def figures(match):
    """"two hundred forty two" and "3.5 million" in figures."""
    value = Decimal(0)
    for word in match[0].split():
        value = value * SCALE[word] if word in SCALE else value + Decimal(NAMED.get(word, word))
    return f"{value.normalize():f}"


SPELLINGS = [(re.compile(pattern), new) for pattern, new in [  # of the text
    ("⁄", "/"), ("&", " and "), (r"\bca(?= ?n't\b)", "can"), (r"\bwo(?= ?n't\b)", "will"), (r" ?n't\b", " not"),
    (r"\bcannot\b", "can not"), (r"\b([a-z])\s?\.\s?(?=[a-z]\s?\.)", r"\1"),  # J. R. R. Tolkien, U.S.
    (r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])", lambda match: match[0].replace(",", "")),
    ("[-—]+", "-"), (r"(?<=[^\W\d_])( *)-\1(?=[0-9])", " "), (r"-(?! *[$€£]?\.?[0-9])", " ")]]  # it stays as a minus or a range
REWORDINGS = [(re.compile(pattern), new) for pattern, new in [  # of the tokens, one space apart
    (r"\bper ?cent\b", "%"), (rf"\b(?:({'|'.join(TENS)}) )?({'|'.join(RANKED)})\b",
                              lambda match: f"{NAMED.get(match[1], 0) + RANKED[match[2]]}th"),
    (rf"(?<!\.)\b(?:{BELOW_100}(?: hundred(?: {BELOW_100})?)?|[0-9]{{1,12}}(?:\.[0-9]{{1,6}})?(?= (?:hundred|{LARGE})\b)"
     rf"(?: hundred)?)(?: (?:{LARGE}))?\b", figures),
    (r"\b([0-9]+)(?:st|nd|rd)\b", r"\1th"), (r"\bminus (?=[0-9])", "- "), (r"(?:\bfrom )?\b([0-9]+) to (?=[0-9])", r"\1 - "),
    (rf"\b([0-9]{{1,2}})(?:th)? (?:of )?{MONTH}(?! [0-9]{{1,2}}\b)", r"\2 \1"),
    (rf"{MONTH} ([0-9]+)(?:th)?\b", lambda match: f"{match[1][:3]} {match[2]}")]]


def tokens(text):
    """The words and signs of a text, whatever its case, accents, quotes and commas, numbers in figures, months before days."""
    text = re.sub("[¼-¾⅐-⅟]", r" \g<0>", re.sub("[²³¹⁰-⁹]+", r"^\g<0>", text.translate(CHARACTERS)))  # 7² is not 72
    text = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text).casefold())
    for pattern, new in SPELLINGS:
        text = pattern.sub(new, text)
    text = " ".join(TOKEN.findall(text))
    for pattern, new in REWORDINGS:
        text = pattern.sub(new, text)
    return text.split()


FORMS = {form: verb for verb, *forms in map(str.split, """
    write wrote written, sing sang sung, win won, make made, build built, begin began begun, hold held, take took taken
    find found, come came, become became, give gave given, lead led, draw drew drawn, shoot shot, fight fought, teach taught
    bring brought, buy bought, lose lost, say said, tell told, go went gone, get got, fly flew, know knew known, grow grew grown
    steal stole stolen, keep kept, meet met, sell sold, rise rose risen, fall fell fallen, eat ate, see saw seen
    choose chose chosen, wear wore worn, stand stood, lay laid, speak spoke spoken, run ran, beat beaten
    """.strip().replace("\n", ",").split(",")) for form in forms}


def stem(word):
    """One form, more or less, for the forms of a verb or a noun: "wrote" and "written", "produce" and "producing"."""
    return re.sub(r"(..)(?:ing|ies|ied|ed|es|s|e|y)$", r"\1", FORMS.get(word, word))


# -- Reading: what may stand around an answer -----------------------------------------------------------------------------

MORE = 60  # words of a response beyond those of the longest gold
ARTICLES, ASKING = {"a", "an", "the"}, set("who whom whose which what when where why how".split())
BE, DO, NEGATIONS = set("is are was were be been being am 's".split()), {"do", "does", "did"}, {"not", "no", "never"}
PRONOUNS = set("it he she they its his her their this".split())
PLACING = {"in", "on", "at", "during"}
AIMING = set("of before after than until since over under near around".split())              # they point away from what follows
LINKS = BE | PLACING | {"as", "that", "because", "called", "named", "known", "year"}
GRAMMAR = {*ARTICLES, *LINKS, *DO, *PRONOUNS, *ASKING, *"has have had by from of will get got these there".split(), ""}
TURNING = set("and or not no never neither nor none either but except without unless maybe perhaps possibly probably may might "
              "could would should".split())
FRAME = re.compile(r"(?:(?:(?:according to|based on|from) (?:the|this) (?:passage|text|context)|(?:the|this) (?:passage|text) "
                   r"(?:says|states) that) )?(?:(?:the |a )?(?:(?:final|correct) )?answer (?:to the question )?(?:is )?)?")
ABSTENTION = re.compile(r"""\b(?:unanswerable|unknown|not\ in\ the\ (?:passage|text|context)
    | (?:no|insufficient|not\ enough)\ (?:answer|information|mention)
    | not(?:\ \w{3,}ly)?(?:\ (?:be|been|possible\ to|have|enough))*(?:\ (?:an?|the|any))?\ (?:answer(?:ed|able)?|say|said|stated?
    | mention(?:ed)?|specif(?:y|ied)|provided|given|tell|told|included|indicated?|discuss(?:ed)?|determined?|find|found|know|clear
    | information | (?:provide|contain|give|include|have)(?=(?:\ \w+){0,3}\ (?:answer|information|details?|it|this)\b)))\b
    """, re.X)
ABSENT = GRAMMAR | set("""to for passage answer text context question article information any enough given provides provided
    contained available possible can i we based according regarding about using how so whether""".split())


def foreign(words, question, grammar):
    """The first word that is neither grammar nor the question's. A word that turns the sense has to stand as in the question."""
    asked, phrases = set(map(stem, question)), set(zip(question, question[1:], question[2:]))
    for phrase in zip(["", *words], words, [*words[1:], ""]):
        word, turns = phrase[1], phrase[1] in TURNING or not phrase[1][:1].isalnum() and phrase[1] != "%"
        if word not in grammar and (stem(word) not in asked or turns and phrase not in phrases):
            return word
    return None


def abstains(response, question):
    """Whether each sentence says that the passage has no answer, and nothing else."""
    sentences = [" ".join(tokens(sentence)) for sentence in re.split(r"\n|[.!;]+(?!\w)", response)]
    for sentence in filter(None, sentences):
        rest, marks = ABSTENTION.subn("is", sentence)
        about = question if "unanswerable" not in sentence else []
        if not marks or foreign(rest.split(), about, ABSENT):
            return False
    return any(sentences) and "?" not in response


def fault(before, answer, after, question):
    """What speaks against a response that consists of the words before, in and after an answer; None if nothing does."""
    while before and before[-1] in ARTICLES:
        before = before[:-1]
    last, words = before[-1] if before else "", [*before, "", *after]        # "": the answer
    if stray := foreign(words, question, GRAMMAR):
        return f"more than the answer: {stray[:60]!a}"
    if last in AIMING and [last] != question[-1:] and "made" not in before and not (last == "of" and answer[0][0] in "$€£0123456789"):
        return f"before the answer: {last!a}"
    if after and after[0] in ("a", "'s"):
        return f"after the answer: {after[0]!a}"
    if "by" in words and "by" not in question and (last == "by") == bool(DO & set(question[1:])):
        return "who did it to whom"                                          # "Bonn was replaced by Berlin"
    if not (BE | DO) & set(question) and last not in BE | {"by"} and any(word not in GRAMMAR for word in before):
        return "the order of the words"                                      # "who beat Carla": "Carla beat Dana"
    if NEGATIONS & set(question) and not NEGATIONS & set(words) and any(word and word not in GRAMMAR for word in words):
        return "a dropped negation"
    return None


def without(words, leading=ARTICLES):
    """The words without the leading ones, if any remain."""
    return words[next((i for i, word in enumerate(words) if word not in leading), 0):]


def reading(response, example):
    """Whether the response gives one of the answers in example.check, or abstains where there is none, and says nothing else."""
    answers, question = example.check.get("answers") or [], tokens(example.check.get("question") or "")
    golds = [tokens(answer) for answer in answers]
    if [] in golds:
        raise InputError(f"the answer {answers[golds.index([])][:60]!a} has no words")
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    found = tokens(response)
    if not found:
        return Verdict(False, "empty")
    if not golds:
        return Verdict(True, "right") if abstains(response, question) else Verdict(False, "no abstention")
    echo = question[:1] and question[0] in ASKING and " ".join(question) in " ".join(found)
    if echo or "?" in response and "?" not in "".join(answers):
        return Verdict(False, "a question")
    said = found[len(FRAME.match(" ".join(found))[0].split()):]
    opening = ARTICLES | PLACING | {"by", "to", "for", "from", "as"}
    forms = [form for gold in golds for form in (gold, without(gold), without(gold, opening))]
    if any(form in forms for form in (found, without(found), said, without(said))):
        return Verdict(True, "right")
    if abstains(response, question):
        return Verdict(False, "abstains")
    if len(said) > MORE + max(map(len, golds)):
        return Verdict(False, f"more than the answer: {len(said)} words")
    spans = {(i, i + len(form)) for form in forms if {*form} - GRAMMAR - {"yes", "no"}
             for i in range(len(said)) if said[i:i + len(form)] == form}
    if not spans:
        return Verdict(False, "another answer, or in other words")
    start, end = max(spans, key=lambda span: span[1] - span[0])
    if any(stop <= start or end <= begin for begin, stop in spans):
        return Verdict(False, "several answers")
    flaw = fault(said[:start], without(said[start:end]), said[end:], question)
    return Verdict(not flaw, flaw or "right")


# -- Code -----------------------------------------------------------------------------------------------------------------

FENCE = re.compile(r"[ \t]*(`{3,}(?!`)|~{3,}(?!~))[ \t]*([^\s`][^`]*|)")
warnings.filterwarnings("ignore", module="<(unknown|test)>")  # "\\d" in the string of an assert


def code(response, example, unsafe=False):
    """Whether the program in the response passes all asserts of example.check["tests"], run after it and check["setup"].

    The calls of its functions are evaluated in the sandbox; the asserts around them here, on the plain values that come back,
    so that the program does not hold what is expected of it. It may exit, print, or replace every builtin: that changes the
    values, or there are none. unsafe: see sandbox.require.
    """
    setup = example.check.get("setup", "")
    tests = [split_test(f"test {number}", text, setup) for number, text in enumerate(example.check["tests"], 1)]
    if not tests:
        raise InputError('"tests" should be a list with an assert in it')
    if len(response) > LONGEST:
        return Verdict(False, f"too long: {len(response)} characters")
    if not (ways := programs(response)):
        return Verdict(False, "no code")
    for program in ways:
        values, reason = sandbox.run(program, setup, [call for calls, _ in tests for call in calls], unsafe=unsafe)
        if not reason.startswith(("syntax error", "raised")):
            break
    if values is None:
        return Verdict(False, reason)
    for number, (calls, rest) in enumerate(tests, 1):
        mine, values = values[:len(calls)], values[len(calls):]
        try:
            names = {"__builtins__": {}, **KNOWN, **{f"call {i}": value for i, value in enumerate(mine)}}
            held = eval(rest, names)  # of parts that split_test has let through
            shown = "" if held else ascii(mine[0])
        except Exception as error:  # an int against a list, an index, an int too long to show, fewer values than calls
            held, shown = False, type(error).__name__
        if not held:
            return Verdict(False, f"wrong value: test {number}: {shown[:60]}")
    return Verdict(True, "right")


def programs(response):
    """The Python in a response, in the ways to read it that are worth a try: all fenced blocks that are tagged as Python or
    untagged, joined; and, as an untagged block may be output, the tagged ones alone. Without a fence, the text as it is."""
    blocks, fence = [], None  # (tag, lines); the marks that opened the last one
    for line in response.split("\n"):
        mark = FENCE.fullmatch(line.rstrip())
        if fence and mark and mark[1].startswith(fence) and not mark[2]:
            fence = None
        elif fence:
            blocks[-1][1].append(line)
        elif mark:
            fence = mark[1]
            blocks.append((re.match(r"[{.]*([^\s:,}]*)", mark[2])[1].lower(), []))
    if not blocks:
        return [response] if response.strip() else []
    blocks = [(tag, textwrap.dedent("\n".join(lines))) for tag, lines in blocks if tag in ("", "python", "py", "python3")]
    blocks = [(tag, text) for tag, text in blocks if text.strip() and not text.lstrip().startswith(">>>")]  # no sessions
    ways = ["\n".join(text for _, text in blocks), "\n".join(text for tag, text in blocks if tag)]
    return [way for way in dict.fromkeys(ways) if way]


def bounded(function, size, most=10**6):
    """`function`, refused with a ValueError where `size` of its arguments is too large: they may come from a hostile program."""
    def wrapped(*args):
        if size(*args) > most:
            raise ValueError("too large")
        return function(*args)
    return wrapped


def length(x):
    return x.bit_length() if isinstance(x, int) else len(x) if hasattr(x, "__len__") else 64


# All names that the part of a test outside the sandbox may have, and its operators. Nothing here can read, write or run long.
KNOWN = {f.__name__: f for f in (
    abs, all, any, bool, dict, float, frozenset, int, isinstance, len, list, max, min, next, reversed, round, set, sorted, str,
    sum, tuple, zip, Counter)}
KNOWN |= {"type": lambda x: type(x), "range": bounded(range, lambda *args: len(range(*args)), sandbox.ITEMS)}
KNOWN |= {f"math.{name}": getattr(math, name) for name in ("isclose", "isnan", "isinf", "pi", "e", "inf", "nan")}
KNOWN |= {f"re.{f.__name__}": bounded(f, lambda pattern, text, *_: len(text), 1000) for f in (re.match, re.search, re.fullmatch)}
KNOWN |= {"collections.Counter": Counter, "sys.getsizeof": sys.getsizeof}
KNOWN |= {"a Mult": bounded(operator.mul, lambda a, b: length(b) * a if isinstance(a, int) and hasattr(b, "__len__") else
                            length(a) * b if isinstance(b, int) and hasattr(a, "__len__") else length(a) + length(b)),
          "a Pow": bounded(operator.pow, lambda a, b: length(a) * abs(b)),
          "a LShift": bounded(operator.lshift, lambda a, b: length(a) + b),
          "a Mod": bounded(operator.mod, lambda a, b: 0 if isinstance(a, (int, float)) else math.inf)}  # no "%999999999d"
PARTS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call,
         ast.keyword, ast.Subscript, ast.Slice, ast.expr_context, ast.unaryop, ast.operator, ast.boolop, ast.cmpop)


def split_test(where, text, setup):
    """(calls, rest) of an assert: the expressions that the program has to evaluate, and the code around their values.

    A call of a name that Python does not know, with all that it is chained to (`f(x).y()`), is the program's; so is `sum(1, 2)`
    in `assert sum(1, 2) == 3`, where nothing else is: the program defines a sum of its own. The rest may hold KNOWN names and
    PARTS only, so that it can be given to `eval`; where it holds more, the test cannot be used, and InputError says so.
    """
    calls = []

    def refuse(what):
        raise InputError(f"{where}, {text.strip()[:60]!a}, {what}")

    def is_the_programs(node):
        root, above, called = node, None, False
        while isinstance(root, (ast.Call, ast.Attribute, ast.Subscript)):
            called |= isinstance(root, ast.Call)
            root, above = root.func if isinstance(root, ast.Call) else root.value, root
        return called and isinstance(node, (ast.Call, ast.Attribute)) and isinstance(root, ast.Name) and root.id not in (
            python | sys.stdlib_module_names if isinstance(above, ast.Attribute) else python)

    def rewrite(node):
        if is_the_programs(node):
            calls.append(ast.unparse(node))
            return ast.Name(f"call {len(calls) - 1}", ast.Load())
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = ast.unparse(node)
            first, dot, others = name.partition(".")
            name = aliases.get(first, first) + dot + others
            return ast.Name(name, ast.Load()) if name in KNOWN else refuse(f"holds {name[:60]!a}, whose value only a program has")
        if not isinstance(node, PARTS):
            refuse(f"is too much for the comparison of values ({type(node).__name__})")
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                setattr(node, field, rewrite(value))
            elif isinstance(value, list):
                value[:] = [rewrite(item) if isinstance(item, ast.AST) else item for item in value]
        if isinstance(node, ast.BinOp) and (name := f"a {type(node.op).__name__}") in KNOWN:
            return ast.Call(ast.Name(name, ast.Load()), [node.left, node.right], [])
        return node

    try:
        (statement,), given = ast.parse(text.strip()).body or [None], ast.parse(setup).body
        if not isinstance(statement, ast.Assert):
            refuse("is not an assert")
        test = statement.test
        aliases = {name.asname or name.name: f"{getattr(node, 'module', None) or ''}.{name.name}".lstrip(".")
                   for node in given if isinstance(node, (ast.Import, ast.ImportFrom)) for name in node.names}
        defined = {node.name for node in given if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        python = {*KNOWN, *dir(builtins), *aliases, *defined}
        if not any(map(is_the_programs, ast.walk(test))) and isinstance(test, ast.Compare) and isinstance(test.left, ast.Call):
            python.discard(ast.unparse(test.left.func))
        rest = rewrite(test)
        if not calls:
            refuse("has no call of a function to test")
        return calls, compile(ast.fix_missing_locations(ast.Expression(rest)), "<test>", "eval", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        refuse(f"is not one assert, or its setup is not Python ({type(error).__name__})")


# -- A model as judge -----------------------------------------------------------------------------------------------------

AGREE = """{tag} Question:
{question}

{tag} Answer 1:
{first}

{tag} Answer 2:
{second}
{tag}

Do answer 1 and answer 2 give the same final answer to the question? Reply with Yes or No."""
MARGIN = 1.0  # of log p(Yes) - log p(No): below it, a model of half a billion weights accepts wrong programs (NOTES.md)
FREE = set("a an the my our final correct solution answer response result is was are it this that here so sure ok okay yes no "
           "well of course i think thus therefore question problem gold reference code python none null".split())


def by_model(model, tokenizer):
    """A judge: whether `model` says, whichever of the two comes first, that the response and example.gold agree.

    The odds are those of the next token, Yes against No, and have to reach MARGIN in both orders: models favour one place
    (Wang et al. 2023, arXiv 2305.17926). The answers stand between marks that their authors cannot know, and what says nothing
    ("Solution:") is rejected unasked: such text draws a Yes from many models (Zhao et al. 2025, arXiv 2507.08794).
    """
    import numpy as np  # here alone: the other judges need neither these nor torch
    import sampler
    yes, no = ([tokenizer.encode_text(word)[0] for word in words] for words in (("Yes", " Yes", "yes"), ("No", " No", "no")))
    yes, no = sorted({*yes} - {*no}), sorted({*no} - {*yes})  # a piece that begins both words says neither
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
        odds = [np.logaddexp.reduce(row[:len(yes)]) - np.logaddexp.reduce(row[len(yes):]) for row in rows]
        return Verdict(min(odds) >= MARGIN, f"{'agree' if min(odds) >= MARGIN else 'disagree'}: log odds {odds[0]:.2f}, {odds[1]:.2f}")
    return judge


# -- Judges by name, and their command line -------------------------------------------------------------------------------

# What the rows of a judge hold beside "response": {field: (kind, value where it is absent; None: it has to be there)}.
JUDGES = {
    "numeric": (numeric, {"answer": (str, None)}),
    "exact": (exact, {"answer": (str, None)}),
    "reading": (reading, {"answers": (list, []), "question": (str, "")}),
    "code": (code, {"tests": (list, None), "setup": (str, "")}),
    "model": (by_model, {"prompt": (str, None), "gold": (str, None)}),  # makes a judge of a checkpoint
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
    if judge is code:
        print(f"programs run under {', '.join(sandbox.require(args.unsafe_code))}", file=sys.stderr)
        judge = functools.partial(code, unsafe=args.unsafe_code)
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
            return judge(response, Example(str(number), check.get("prompt", ""), check.get("gold", ""), check))
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
    except (InputError, OSError) as error:
        print(f"judges.py: {error}", file=sys.stderr)
        sys.exit(2)
