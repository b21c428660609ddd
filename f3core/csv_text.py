"""Results as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def csv_text(lines: Iterable[Iterable[tuple[str, object]]]) -> str:
    """A line each, of (column, value) pairs; the columns are those of the first line."""
    every, text = [dict(line) for line in lines], io.StringIO()
    writer = csv.DictWriter(text, list(every[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    return text.getvalue()
