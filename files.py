"""Errors that a user can mend, files that are whole or absent, and journals that outlive a kill."""

import codecs
import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import parallel

MOST_FAULTS = 10  # bad rows that one error names


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
    try:
        return parse_json(read_bytes(path), kind)
    except ValueError as error:
        raise InputError(f"{path}: {error}; mend it or fetch it again")


def parse_json(data, kind):
    """The value in JSON bytes. ValueError says what is wrong with it."""
    try:
        value = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep")
    except ValueError as error:  # not UTF-8, not JSON, a number of 5,000 digits
        raise ValueError(f"not JSON ({error})")
    if not isinstance(value, kind):
        raise ValueError(f"holds a JSON {type(value).__name__}, a {kind.__name__} is needed")
    return value


def read_jsonl(path, parse=lambda number, row: (number, row)):
    """[parse(line number, dict)] of the lines that are not blank, numbered from 1.

    InputError names file and line of bad rows, also those that `parse` refuses by an InputError.
    """

    def parse_line(numbered):
        number, line = numbered
        try:
            return parse(number, parse_json(line, dict))
        except (InputError, ValueError) as error:
            raise InputError(f"{path}:{number}: {error}; mend or remove this line")

    lines = enumerate(read_bytes(path).split(b"\n"), 1)
    return parse_all([(number, line) for number, line in lines if line.strip()], parse_line)


def parse_all(items, parse):
    """[parse(item)] of all items. InputError names the first ten bad ones, one a line."""
    found, faults = [], []
    for item in items:
        try:
            found.append(parse(item))
        except InputError as error:
            faults.append(str(error))
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


# Journals


class Journal:
    """An append-only JSONL file of partial rows; rows with equal `keys` merge, later values win.

    A line counts once its newline is on disk, so a torn last line of a killed run is cut off.
    Each process appends to a file of its own; `sync` makes them one.
    """

    def __init__(self, path, keys=("id",)):
        self.path, self.keys = path, keys
        self.rows = {}  # by id, or by the tuple of the keys
        self.own = path
        if parallel.world_size > 1:
            self.own = path.with_suffix(f".{parallel.rank}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sync()

    def add(self, id, **values):
        row = {"id": id, **values}
        self.merge(row)
        with open(self.own, "a", encoding="utf-8") as file:
            file.write(json_line(row))

    def merge(self, row):
        key = tuple(row[name] for name in self.keys)
        self.rows.setdefault(key if len(key) > 1 else key[0], {}).update(row)

    def sync(self):
        """Let `rows` hold what all processes have added, in one order everywhere."""
        parallel.barrier()
        if parallel.is_main:
            parts = sorted(self.path.parent.glob(f"{self.path.stem}.[0-9]*.jsonl"))
            for part in [self.path, *parts]:
                self.read(part)
            if parts:
                self.compact(self.rows)
            for part in parts:
                part.unlink()
        parallel.barrier()
        if not parallel.is_main:
            self.rows = {}
            self.read(self.path)

    def read(self, path):
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            os.truncate(path, whole)
            for _, row in read_jsonl(path):
                self.merge(row)

    def compact(self, order):
        """Rewrite the file with one whole row for each key in `order`."""
        if parallel.is_main:
            write_jsonl(self.path, [self.rows[key] for key in order])
