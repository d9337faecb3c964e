"""Runs the service with every statement to SQLite written into a file.

python -m tests.speed.traced FILE python -m server
"""

import itertools
import json
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import database


@contextmanager
def trace(path: Path) -> Iterator[None]:
    """Write what connections that are opened meanwhile say into the file, a statement a line."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    opened, numbers = database._open, itertools.count()

    def open_traced(*given: Any, **options: Any) -> database._Connection:
        conn, number = opened(*given, **options), next(numbers)

        def write(text: str) -> None:
            os.write(file, json.dumps([number, text]).encode() + b"\n")

        conn.set_trace_callback(write)
        return conn

    vars(database)["_open"] = open_traced
    try:
        yield
    finally:
        vars(database)["_open"] = opened


if __name__ == "__main__":
    with trace(Path(sys.argv[1])):
        sys.argv = sys.argv[4:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
