"""Errors that a user can mend, files that are whole or absent, and reading what others wrote."""

import codecs
import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

MOST_FAULTS = 10  # bad rows that one error names
OTHER_FORM = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class InputError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with code 2."""


@contextlib.contextmanager
def replace(path):
    """Yield a temporary sibling of `path`, file or directory; rename it to `path` on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)  # rename(2) does not replace a directory that holds files
        temporary.rename(path)
    finally:
        remove(temporary)


def remove(path):
    """Remove a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lock(directory):
    """Hold `directory` until the returned file is closed or the process ends.

    Removes what a killed process left half-written. InputError if another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = open(directory / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        mend = "wait until it ends, or use another --out"
        raise InputError(f"{directory}: another run is at work there; {mend}")
    for left in list(directory.rglob(".*.tmp")):
        remove(left)
    return file


def write_text(path, text):
    with replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path, rows):
    write_text(path, "".join(map(json_line, rows)))


def json_line(row):
    return json.dumps(row, ensure_ascii=False) + "\n"


# Reading what others wrote


def read_bytes(path):
    """What a file holds, without a byte order mark. InputError if it cannot be read."""
    try:
        return Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        mend = "download it, mend its rights, or name another one"
        raise InputError(f"{path}: {error.strerror.lower()}; {mend}")


def read_json(path, kind=object):
    """The value in a JSON file. InputError if it is absent, not JSON, or not of this kind."""
    data = read_bytes(path)
    try:
        return parse_json(data, kind)
    except InputError as error:
        raise InputError(f"{path}: {error}; mend it or fetch it again")


def parse_json(data, kind):
    """The value in JSON bytes. InputError says what is wrong with it."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, …
        raise InputError(f"not JSON ({error})")
    if not isinstance(value, kind):
        raise InputError(f"holds a JSON {type(value).__name__}, a {kind.__name__} is needed")
    return value


def read_jsonl(path, parse=lambda number, row: (number, row)):
    """[parse(line number, dict)] of the lines that are not blank. Errors as in `parse_rows`."""
    lines = enumerate(read_bytes(path).split(b"\n"), 1)
    numbered = [(number, line) for number, line in lines if line.strip()]
    parse_line = lambda number, line: parse(number, parse_json(line, dict))  # noqa: E731
    return parse_rows(f"{path}:", numbered, parse_line)


def parse_rows(place, numbered, parse):
    """[parse(number, row)] of numbered rows.

    InputError names the first ten bad ones, one a line: those that `parse` refuses by an
    InputError, and those on which it fails because they have another form.
    """
    found, faults = [], []
    for number, row in numbered:
        try:
            found.append(parse(number, row))
            continue
        except InputError as error:
            fault = str(error)
        except OTHER_FORM as error:
            fault = f"not as published ({type(error).__name__}: {error})"
        faults.append(f"{place}{number}: {fault}; mend or remove it")
        if len(faults) == MOST_FAULTS:
            faults.append("… (the rest was not looked at)")
            break
    if faults:
        raise InputError("\n".join(faults))
    return found


def check_text(value):
    """`value` itself. InputError if a text anywhere in it holds NUL or half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False)
    bad = re.search(r"[\ud800-\udfff]|(?<!\\)(?:\\\\)*\\u0000", text)
    if bad:
        raise InputError(f"a text holds {bad[0][-6:]!a}, which is no character")
    return value
