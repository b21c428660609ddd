"""The prompt sets, listed in text files beside this one, and how some of them are chosen."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files

from f3core.captions import words
from f3core.method import PromptSet


class _Shuffled(PromptSet):
    """A list in an order drawn by ``seed``, anew each time round, so that all are used before any repeats."""

    def prompts(self, count: int, seed: int) -> list[str]:
        if count < 0:
            raise ValueError(f"cannot choose {count} prompts")
        draw, chosen, listed = random.Random(seed), list[str](), listed_in(self.name)
        while len(chosen) < count:
            chosen += draw.sample(listed, len(listed))
        return chosen[:count]


class Ucf101(_Shuffled):
    """The 101 class labels of UCF-101 (Soomro, Zamir and Shah 2012), its folders' names, as words."""

    name = "ucf101"


class Davis(_Shuffled):
    """The 90 sequence names of DAVIS 2017 trainval (Pont-Tuset et al. 2017; 60 of training, 30 of validation) as words.

    The 2016 edition has 50 of them.
    """

    name = "davis"


class LongText(_Shuffled):
    """Sentences of 17 to 24 words, each a scene with motion, written for f3core. 19 of the 123 name a style or shot
    first and have no main verb ("Pixel art of a knight walking through ..."), the others are full sentences.

    They stand where the F3-Pruning paper has its LONGTEXT, sentences that its authors generated.
    """

    name = "longtext"


@cache
def listed_in(name: str) -> tuple[str, ...]:
    """All prompts of a set, in its own order."""
    lines = tuple(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines())
    return lines if name == LongText.name else tuple(map(words, lines))
