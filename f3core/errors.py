"""What can go wrong, as a tree.

F3Error
├── SpecError            a spec (or a --set override) is wrong; carries file, line and column
├── PluginError          a plugin cannot be used: bad hook, duplicate or unknown name
│   └── AdapterMatchError    none or several adapters claim a model
├── ModelError           a model cannot be found, loaded or run
├── ProbeError           attention at a site was not what the adapter declared
├── ScoresError          saved scores do not fit together, or lack what was asked for
├── PlanError            a plan cannot be made from, or applied to, this model
├── CountingError        an operation's cost is unknown, so a total would be wrong
└── OutputError          an output folder is in the way, missing or incomplete
    └── ClipError            a video or picture is broken, or not what was asked for
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class F3Error(Exception):
    """Base of every error f3core raises on purpose."""

    exit_code = 1


class SpecError(F3Error):
    """A spec is wrong. ``str()`` reads ``file:line:column: what is wrong``, one line a problem."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(F3Error):
    """A plugin cannot be used."""


class AdapterMatchError(PluginError):
    """None or several adapters claim a model."""


class ModelError(F3Error):
    """A model cannot be found, loaded or run."""


class ProbeError(F3Error):
    """Attention at a site was not what the adapter declared."""


class ScoresError(F3Error):
    """Saved scores do not fit together, or lack what was asked for."""


class PlanError(F3Error):
    """A plan cannot be made from, or applied to, this model."""


class CountingError(F3Error):
    """An operation's cost is unknown, so a total would be wrong."""


class OutputError(F3Error):
    """An output folder is in the way, missing or incomplete."""

    exit_code = 2


class ClipError(OutputError):
    """A video or picture is broken, or not what was asked for."""


def suggest(word: str, known: Iterable[str]) -> str:
    """What is allowed, with the nearest name first: ``did you mean 'aas'? allowed: aas, drift``."""
    names = sorted(known)
    folded = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(word.lower(), folded, n=1)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names) if names else '(none registered)'}"
