"""What every part of the project asks of the file system, said once.

Errors that a user can mend (`InputError`: one line that names the file, the row and the mend), outputs that are whole or
absent (`replace`), and append-only JSONL journals that outlive a kill (`Journal`).
"""
import codecs
import contextlib
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import parallel


class InputError(Exception):
    """Something the user can mend; the command line prints the message as one line and exits with code 2."""


@contextlib.contextmanager
def replace(path):
    """Yield a temporary sibling of `path`; on success it is renamed to `path` (file or directory), else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)  # rename(2) does not replace a directory that holds files
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def lock(directory):
    """A file that holds `directory` for this process, until it ends, however it ends; InputError where another process holds it.
    What a killed process left behind half-written is removed."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    file = open(Path(directory) / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{directory}: another run is at work there; wait until it ends, or use another --out")
    for left in list(Path(directory).rglob(".*.tmp")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return file


def write_text(path, text):
    with replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path, kind=object):
    """The value in a JSON file; InputError where it is absent, not JSON or not of this kind."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; download it, or name another folder")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); mend it or fetch it again")
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, a {kind.__name__} is needed; mend it or fetch it again")
    return value


def read_jsonl(path, parse=lambda number, row: (number, row)):
    """[parse(line number from 1, dict)] of the lines that are not blank. InputError names file and line, of up to ten bad lines at once:
    those that are no JSON object, and those that `parse` refuses by an InputError."""
    def read(numbered):
        number, line = numbered
        try:
            return parse(number, json_object(line))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}; mend or remove this line")
    try:
        with open(path, "rb") as file:
            lines = ((number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line) for number, line in enumerate(file, 1))
            return gather(filter(lambda numbered: numbered[1].strip(), lines), read)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; download it, or name another folder")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); give this user the right to read it, or name another file")


def json_object(line):
    """The dict in a line of bytes; InputError says what is wrong with the line."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error.reason} at byte {error.start + 1})")
    except (ValueError, RecursionError) as error:                            # broken, a number of 5,000 digits, nested a thousand deep
        raise InputError(f"not JSON ({getattr(error, 'msg', error)})")
    if not isinstance(row, dict):
        raise InputError(f"a JSON object was expected, found {type(row).__name__}")
    return row


def whole_text(value):
    """`value` itself; InputError where a text anywhere in it holds NUL or half of a surrogate pair, which are no text."""
    if isinstance(value, str) and (bad := re.search("[\0\ud800-\udfff]", value)):
        raise InputError(f"the text {value[:40]!a} holds {bad[0]!a} at character {bad.start() + 1}")
    for part in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        whole_text(part)
    return value


def gather(items, parse):
    """[parse(item)] of all items. InputError: the first ten that `parse` raises, one a line."""
    found, faults = [], []
    for item in items:
        try:
            found.append(parse(item))
        except InputError as error:
            faults.append(str(error))
            if len(faults) == 10:
                faults.append("… (what comes after was not looked at)")
                break
    if faults:
        raise InputError("\n".join(faults))
    return found


class Journal:
    """An append-only JSONL file of partial rows {"id": …, …}; rows of one id, or of equal `fields`, are merged, later keys win.

    A line counts once its newline is on disk: `Journal(path)` cuts a torn last line off (a killed run) and reads the rest
    into `rows`, a dict by id or by the tuple of the fields. `add` appends and flushes; `compact` rewrites the file with one whole row an id.
    Of several processes each appends to a file of its own, and `exchange` makes them one.
    """

    def __init__(self, path, fields=("id",)):
        self.path, self.rows, self.fields = Path(path), {}, fields
        self.own = self.path if parallel.SIZE == 1 else self.path.with_suffix(f".{parallel.RANK}{self.path.suffix}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.collect()

    def exchange(self):
        """Have in `rows` what all processes have added."""
        if parallel.SIZE > 1:
            self.collect()

    def collect(self):
        """Fill `rows` from the file and what processes have left beside it, in an earlier run too, however many they were; make it one file."""
        parallel.barrier()
        if parallel.RANK == 0:
            parts = sorted(self.path.parent.glob(f"{self.path.stem}.[0-9]*{self.path.suffix}"))
            for file in [self.path, *parts]:
                self.read(file)
            if parts:
                self.compact(self.rows)
            for file in parts:
                file.unlink()
        parallel.barrier()
        if parallel.RANK:
            self.rows = {}                                                   # so that rows have one order in all processes
            self.read(self.path)

    def read(self, path):
        """Merge the rows of `path` into `rows`; a torn last line is cut off the file. InputError names a line without the fields."""
        if path.exists():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(path, whole)
            for number, row in read_jsonl(path):
                if not row.keys() >= set(self.fields):
                    raise InputError(f"{path}:{number}: no \"{self.fields[-1]}\"; the file is damaged, remove it to make it again")
                self.merge(row)

    def merge(self, row):
        key = tuple(row[name] for name in self.fields)
        self.rows.setdefault(key if len(key) > 1 else key[0], {}).update(row)

    def add(self, id, /, **values):
        self.merge({"id": id, **values})
        with open(self.own, "a", encoding="utf-8") as file:
            file.write(json.dumps({"id": id, **values}, ensure_ascii=False) + "\n")

    def compact(self, ids):
        """Rewrite the file as one row an id, in the order of `ids`."""
        if parallel.RANK == 0:
            with replace(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(self.rows[i], ensure_ascii=False) + "\n" for i in ids)
