"""Workspaces: an output appears whole or not at all, and an interrupted run can be gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from f3core.errors import OutputError
from f3core.workspace import Workspace, workspace

ME = {"spec": {"ratio": 0.5}, "seed": 1}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "run"


def write(work: Workspace) -> None:
    (work.folder / "model").mkdir()
    (work.folder / "model" / "weights").write_bytes(b"123")
    (work.folder / "plan.json").write_text("{}")
    (work.scratch / "prompt-0").write_text("half")


def interrupted(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workspace(output, ME, resume=False) as work:  # noqa: PT012
        (work.scratch / "prompt-0").write_text("done")
        raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("empty_folder_in_place", [False, True])
def test_finish_moves_all_but_scratch(output: Path, empty_folder_in_place: bool) -> None:
    if empty_folder_in_place:
        output.mkdir(parents=True)
    with workspace(output, ME, resume=False) as work:
        assert work.scratch.is_dir()
        write(work)
        assert not output.exists() or names(output) == []
        work.finish()
    assert names(output) == ["model", "model/weights", "plan.json"]
    assert (output / "model" / "weights").read_bytes() == b"123"
    assert names(output.parent) == ["run", *(f"run/{name}" for name in names(output))]


def test_a_failure_leaves_no_output(output: Path) -> None:
    with pytest.raises(ZeroDivisionError), workspace(output, ME, resume=False) as work:  # noqa: PT012
        write(work)
        raise ZeroDivisionError
    assert not output.exists()
    assert (output.with_name("run.partial") / "plan.json").is_file()


def test_a_failure_before_anything_was_made_leaves_nothing(output: Path) -> None:
    with pytest.raises(ZeroDivisionError), workspace(output, ME, resume=False):
        raise ZeroDivisionError
    assert names(output.parent) == []
    with workspace(output, ME, resume=False) as work:  # and so is no obstacle
        write(work)
        work.finish()
    assert output.is_dir()


def test_an_interrupted_run_is_resumed_only_when_asked(output: Path) -> None:
    interrupted(output)
    before = names(output.parent)
    with pytest.raises(OutputError, match=r"run\.partial; add --resume"), workspace(output, ME, resume=False):
        pytest.fail("entered")
    assert names(output.parent) == before
    with workspace(output, ME, resume=True) as work:
        assert (work.scratch / "prompt-0").read_text() == "done"
        write(work)
        work.finish()
    assert names(output) == ["model", "model/weights", "plan.json"]


def test_the_order_of_an_identitys_keys_does_not_matter(output: Path) -> None:
    interrupted(output)
    with workspace(output, dict(reversed(ME.items())), resume=True) as work:
        assert (work.scratch / "prompt-0").exists()


@pytest.mark.parametrize("other", [{**ME, "seed": 2}, {"spec": {"ratio": 0.25}, "seed": 1}, {}])
def test_a_foreign_unfinished_run_is_refused_and_kept(output: Path, other: dict[str, object]) -> None:
    interrupted(output)
    with pytest.raises(OutputError, match="of another spec"), workspace(output, other, resume=True):
        pytest.fail("entered")
    assert (output.with_name("run.partial") / "unfinished" / "prompt-0").read_text() == "done"


def test_a_folder_of_that_name_that_is_no_run_is_refused_and_kept(output: Path) -> None:
    partial = output.with_name("run.partial")
    partial.mkdir(parents=True)
    (partial / "mine.txt").write_text("keep")
    for resume in (False, True):
        with pytest.raises(OutputError), workspace(output, ME, resume=resume):
            pytest.fail("entered")
    assert names(partial) == ["mine.txt"]


def test_resuming_nothing_starts_afresh(output: Path) -> None:
    with workspace(output, ME, resume=True) as work:
        write(work)
        work.finish()
    assert (output / "plan.json").exists()


def test_an_output_that_appears_meanwhile_is_not_overwritten(output: Path) -> None:
    with workspace(output, ME, resume=False) as work:
        write(work)
        output.mkdir()
        (output / "theirs").write_text("x")
        with pytest.raises(OutputError, match=r"appeared meanwhile.*run\.partial"):
            work.finish()
    assert names(output) == ["theirs"]
    assert (output.with_name("run.partial") / "plan.json").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), workspace(tmp_path / "file" / "run", ME, resume=False):
        pytest.fail("entered")
    with pytest.raises(OutputError, match="cannot be an output"), workspace(Path("/"), ME, resume=False):
        pytest.fail("entered")


def test_the_current_folder_and_links_are_places_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place, lands in ((Path("."), "here"), (Path("../link"), "target")):
        with workspace(place, ME, resume=False) as work:
            write(work)
            work.finish()
        assert names(tmp_path / lands) == ["model", "model/weights", "plan.json"]
    assert (tmp_path / "link").is_symlink()
