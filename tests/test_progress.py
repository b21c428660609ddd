"""News of a task change what its bar says; they make no other bar."""

from __future__ import annotations

import pytest

from f3core.progress import listening


def test_news_after_a_tab_are_of_the_same_task(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(quiet=False) as listener:
        listener("Loading", 1, 1)
        listener("Training\ttask 0.9", 1, 2)
        listener("Training\ttask 0.1", 2, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Loading ")
    assert lines[1].startswith("Training: task 0.1 ")
    assert "2/2" in lines[1]
