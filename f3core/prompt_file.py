"""Files of prompts and captions: plain text, .csv and .jsonl. Errors point at file:line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from f3core.errors import SpecError

COLUMNS = ("prompt", "caption", "text")
"""columns of a .csv, keys of a .jsonl, that may hold the prompts; the first that is there does"""


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, in its order.

    - .csv: after a line of column names, the column prompt, caption or text, or the only column, whatever its name;
    - .jsonl: in each line, a JSON string, or an object with the key prompt, caption or text;
    - any other file: every line that is not blank.

    Raises `SpecError` with file and line for what cannot be read, and for a file without a prompt.
    """
    if path.suffix.lower() in (".csv", ".jsonl"):
        found = [_prompt(path, line, row) for line, row in rows(path)]
    else:
        found = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not found:
        raise SpecError(f"{path} holds no prompt; write one a line")
    return found


def rows(path: Path) -> Iterator[tuple[int, Mapping[str, str] | str]]:
    """Lines of a .csv or .jsonl file by number, each with its values by column or key (those that are text), or the
    text that a line of .jsonl is. Raises `SpecError` as `read_prompts` does."""
    return (_csv if path.suffix.lower() == ".csv" else _jsonl)(path, _text(path))


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begun = 1
    try:
        for cells in reader:
            line, begun = begun, reader.line_num + 1  # a quoted value may span lines
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                if len(set(header)) < len(header):
                    raise SpecError(f"{path}:{line}: a column is named twice: {', '.join(header)}")
                continue
            if len(cells) != len(header):
                raise SpecError(
                    f"{path}:{line}: {len(cells)} values for {len(header)} columns ({', '.join(header)}); "
                    "put text with commas between double quotes"
                )
            yield line, dict(zip(header, map(str.strip, cells), strict=True))
    except csv.Error as error:
        raise SpecError(f"{path}:{begun}: not CSV: {error}") from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, str] | str]]:
    for number, line in enumerate(text.split("\n"), 1):  # JSON strings may hold what else counts as a line break
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise SpecError(f"{path}:{number}: not JSON: {error}") from error
        if isinstance(value, str):
            yield number, value.strip()
        elif isinstance(value, dict):
            yield number, {key: each.strip() for key, each in value.items() if isinstance(each, str)}
        else:
            raise SpecError(f"{path}:{number}: must be a JSON string or object")


def _prompt(path: Path, line: int, row: Mapping[str, str] | str) -> str:
    if isinstance(row, str):
        prompt = row
    else:
        column = next((name for name in COLUMNS if name in row), None)
        if column is None and path.suffix.lower() == ".csv" and len(row) == 1:
            column = next(iter(row))
        if column is None:
            there = ", ".join(row) or "(none with text)"
            raise SpecError(f"{path}:{line}: holds no {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; there is: {there}")
        prompt = row[column]
    if not prompt:
        raise SpecError(f"{path}:{line}: the prompt is empty")
    return prompt


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as text: {error}") from error
