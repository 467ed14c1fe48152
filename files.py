"""What every part of the project asks of the file system, said once.

Errors that a user can mend (`InputError`: one line that names the file, the row and the mend), outputs that are whole or
absent (`replace`), and append-only JSONL journals that outlive a kill (`Journal`).
"""
import contextlib
import json
import os
import shutil
from pathlib import Path


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


def write_text(path, text):
    with replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path):
    """The value in a JSON file; InputError where it is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})")


def read_jsonl(path):
    """Yield (line number from 1, dict) for each line that is not blank; InputError names file and line."""
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:  # broken, a number of 5,000 digits, nested a thousand deep
                    raise InputError(f"{path}:{number}: not JSON ({getattr(error, 'msg', error)}); mend or remove this line")
                if not isinstance(row, dict):
                    raise InputError(f"{path}:{number}: a JSON object was expected, found {type(row).__name__}")
                yield number, row
    except FileNotFoundError:
        raise InputError(f"{path}: no such file")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})")


class Journal:
    """An append-only JSONL file of partial rows {"id": …, …}; rows of one id, or of equal `fields`, are merged, later keys win.

    A line counts once its newline is on disk: `Journal(path)` cuts a torn last line off (a killed run) and reads the rest
    into `rows`, a dict by id or by the tuple of the fields. `add` appends and flushes; `compact` rewrites the file with one whole row an id.
    """

    def __init__(self, path, fields=("id",)):
        self.path, self.rows, self.fields = Path(path), {}, fields
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self.path, whole)
            for number, row in read_jsonl(self.path):
                if not row.keys() >= set(fields):
                    raise InputError(f"{self.path}:{number}: no \"{fields[-1]}\"; the file is damaged, remove it to make it again")
                self.merge(row)

    def merge(self, row):
        key = tuple(row[name] for name in self.fields)
        self.rows.setdefault(key if len(key) > 1 else key[0], {}).update(row)

    def add(self, id, /, **values):
        self.merge({"id": id, **values})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"id": id, **values}, ensure_ascii=False) + "\n")

    def compact(self, ids):
        """Rewrite the file as one row an id, in the order of `ids`."""
        write_text(self.path, "".join(json.dumps(self.rows[i], ensure_ascii=False) + "\n" for i in ids))
