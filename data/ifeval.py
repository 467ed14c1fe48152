"""IFEval, instructions that a program can check (Zhou et al. 2023, arXiv 2311.07911).

The authors' input_data.jsonl has 541 prompts with 834 instructions of 25 kinds. The checks are
those of lm-evaluation-harness 0.4.13, with two differences. Where it counts a random letter in
place of a sign such as "#", the sign is counted. The language detector is seeded.
Five kinds need langdetect, or nltk with its punkt_tab. Without them `missing` names these kinds,
and they are left out.
"""

import functools
import inspect
import json
import re
from collections import Counter
from pathlib import Path

from data import Example, some, text, user
from files import InputError, read_jsonl
from judges import RIGHT, Verdict

MAX_NEW_TOKENS = 512
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


# The checks, one a kind: (response, the instruction's own arguments) -> bool


def holds(count, relation, threshold):
    return count < threshold if relation == "less than" else count >= threshold


def existence(text, keywords):
    return all(re.search(keyword, text, re.I) for keyword in keywords)


def frequency(text, keyword, relation, frequency):
    return holds(len(re.findall(keyword.strip(), text, re.I)), relation, frequency)


def forbidden_words(text, forbidden_words):
    return not any(re.search(rf"\b{word}\b", text, re.I) for word in forbidden_words)


def letter_frequency(text, letter, let_relation, let_frequency):
    return holds(Counter(text.lower())[letter.strip().lower()], let_relation, let_frequency)


def response_language(text, language):
    return detect_language(text) in (language, None)


def number_sentences(text, num_sentences, relation):
    return holds(len(sentences(text)), relation, num_sentences)


def number_paragraphs(text, num_paragraphs):
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and len([*filter(None, parts)]) == num_paragraphs


def number_words(text, num_words, relation):
    return holds(len(re.findall(r"\w+", text)), relation, num_words)


def nth_paragraph_first_word(text, num_paragraphs, nth_paragraph, first_word):
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > count or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    word = re.match("""[^.,?!'"]*""", word)[0].lower()
    return count == num_paragraphs and word == first_word.lower()


def number_placeholders(text, num_placeholders):
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text, postscript_marker):
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return bool(re.search(patterns.get(marker, marker.lower()), text.lower()))


def number_bullet_lists(text, num_bullets):
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.M)
    dashes = re.findall(r"^\s*-.*$", text, re.M)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text):
    return any(option in text for option in OPTIONS)


def number_highlighted_sections(text, num_highlights):
    found = re.findall(r"\*[^\n\*]*\*", text) + re.findall(r"\*\*[^\n\*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in found) >= num_highlights


def multiple_sections(text, section_spliter, num_sections):
    return len(re.findall(rf"{section_spliter.strip()}\s?\d+", text)) >= num_sections


def json_format(text):
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
        return True
    except (ValueError, RecursionError):
        return False


def title(text):
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text):
    parts = [part.strip() for part in text.split("******")]
    said = [*filter(None, parts)]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def repeat_prompt(text, prompt_to_repeat):
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text, end_phrase):
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text, capital_frequency, capital_relation):
    count = sum(word.isupper() for word in words(text))
    return holds(count, capital_relation, capital_frequency)


def english_capital(text):
    return text.isupper() and detect_language(text) in ("en", None)


def english_lowercase(text):
    return text.islower() and detect_language(text) in ("en", None)


def no_comma(text):
    return "," not in text


def quotation(text):
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS = {  # by what stands behind the colon of "keywords:existence"
    check.__name__: check
    for check in (
        *(existence, frequency, forbidden_words, letter_frequency, response_language),
        *(number_sentences, number_paragraphs, number_words, nth_paragraph_first_word),
        *(number_placeholders, postscript, number_bullet_lists, constrained_response),
        *(number_highlighted_sections, multiple_sections, json_format, title),
        *(two_responses, repeat_prompt, end_checker, quotation, capital_word_frequency),
        *(english_capital, english_lowercase, no_comma),
    )
}


# What some of them need


def detect_language(text):
    """The language's code, or None where there is nothing to tell it by, which counts as right."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # else it draws another sample each time
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


def sentences(text):
    import nltk

    return nltk.sent_tokenize(text)


def words(text):
    import nltk

    return nltk.word_tokenize(text)


@functools.cache
def missing():
    """The kinds whose package, or nltk's punkt_tab, is not installed."""
    needs = {
        detect_language: (response_language, english_capital, english_lowercase),
        words: (number_sentences, capital_word_frequency),
    }
    without = ()
    for tool, checks in needs.items():
        try:
            tool("Is it there?")
        except (ImportError, LookupError):
            without += checks
    return [check.__name__ for check in without]


# Prompts and scores


def load(directory):
    """Examples of input_data.jsonl with an instruction that can be checked here."""

    def parse(line, row):
        instructions, left_out = [], ""
        for kind, values in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            name = kind.partition(":")[2]
            if name not in CHECKS:
                raise InputError(f"the instruction {kind!a:.60} is not known; mend its name")
            arguments = {key: value for key, value in values.items() if value}
            inspect.signature(CHECKS[name]).bind("", **arguments)  # TypeError if one is missing
            if name in missing():
                left_out += f" without {name}"  # so it is another example
            else:
                instructions.append([name, arguments])
        messages = user(text(row, "prompt"))
        return Example(
            f"{file.name}:{line}{left_out}", messages, "", {"instructions": instructions}
        )

    file = Path(directory) / "input_data.jsonl"
    examples = [e for e in read_jsonl(file, parse) if e.check["instructions"]]
    return some(examples, file)


def follow(responses, example):
    """For each instruction 1 if one of the responses follows it, else 0."""
    found = []
    for name, arguments in example.check["instructions"]:
        check = CHECKS[name]
        found.append(int(any(r.strip() and check(r, **arguments) for r in responses)))
    return found


def metrics(response, example):
    """Strict: the response as it is. Loose: also without its first line, last line and stars.

    A score by prompt (are all instructions followed?), and a list of scores by instruction.
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    strict = follow([response], example)
    loose = follow(cut + [text.replace("*", "") for text in cut], example)
    return {
        "prompt_level_strict_acc": int(all(strict)),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": int(all(loose)),
        "inst_level_loose_acc": loose,
    }


def judge(response, example):
    """Whether the response follows all instructions, strictly."""
    return RIGHT if all(follow([response], example)) else Verdict(False, "not followed")
