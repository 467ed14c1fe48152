"""Journals: files of rows that outlive a kill, written by one process or several."""

import os

import parallel
from files import json_line, read_jsonl, write_jsonl


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
            data = path.read_bytes()
            if not data.endswith(b"\n"):  # a whole file may be about to be replaced
                os.truncate(path, data.rfind(b"\n") + 1)
            for _, row in read_jsonl(path):
                self.merge(row)

    def compact(self, order):
        """Rewrite the file with one whole row for each key in `order`."""
        if parallel.is_main:
            write_jsonl(self.path, [self.rows[key] for key in order])
