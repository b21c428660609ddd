"""What metrics say of a folder of clips, whoever made them: the work of `f3core evaluate`.

torch is imported where it is used, so that wrong usage is refused at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from f3core import yaml_source
from f3core.clip_folder import Clips, clips_in
from f3core.errors import OutputError, PluginError, SpecError
from f3core.evaluate import measured
from f3core.metric import Batch, Metric, Reference
from f3core.registry import Registry
from f3core.workspace import written

if TYPE_CHECKING:
    from rich.console import RenderableType

FORMAT = 1
Listener = Callable[[str, int, int], None]
"""Called with (task, done, total)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Sampling(_Frozen):
    """Which frames are looked at, and how; see `f3core.clip_folder.clips_in`. ``size``: (height, width)."""

    frames: int | None = None
    stride: int = 1
    size: tuple[int, int] | None = None
    batch_size: int = 8
    reference_seed: int | None = 0
    """draws where clips of a reference set begin; None: at their first frame, as clips that are measured do"""


class Figures(_Frozen):
    """What one metric says. ``clips``, ``reference_clips``: how many it was shown (0: it compares with nothing);
    ``warnings``: what it said besides."""

    metric: str
    options: dict[str, Any] = {}
    higher_is_better: bool
    figures: dict[str, float]
    clips: int
    reference_clips: int = 0
    warnings: tuple[str, ...] = ()


class FolderQuality(_Frozen):
    """Figures of a folder of clips; ``left_out``: path of a clip to the reason why it could not be used."""

    format: int = FORMAT
    folder: str
    reference: str | None
    sampling: Sampling
    metrics: tuple[Figures, ...]
    left_out: dict[str, str]
    reference_left_out: dict[str, str]

    def save(self, path: Path) -> None:
        """Write as indented JSON. Raises `OutputError` when the file is there already, or cannot be written."""
        if path.exists():
            raise OutputError(f"{path} is there already and is not overwritten; give another --output, or remove it")
        try:
            with written(path) as unfinished:
                unfinished.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class Asked:
    """A metric that is asked for, made; ``text``: as it was written."""

    text: str
    metric: Metric
    options: Mapping[str, Any]


def asked(texts: Sequence[str], registry: Registry) -> list[Asked]:
    """Metrics from ``NAME`` or ``NAME={option: value}``, options in YAML.

    Raises `SpecError` for none at all, an unknown name, options that are no mapping, or the same twice; `PluginError`
    when a metric does not take its options.
    """
    known = ", ".join(registry.names("metric")) or "(none registered)"
    if not texts:
        raise SpecError(f"give at least one --metric; there are: {known}")
    found = list[Asked]()
    for text in texts:
        name, equals, written_options = text.partition("=")
        try:
            options = yaml_source.read(written_options).value if equals else {}
        except yaml_source.YamlProblem as error:
            raise SpecError(f"--metric {text}: {error.message}") from error
        if not isinstance(options, dict):
            raise SpecError(f"--metric {text}: write a name, or NAME={{option: value}}")
        if any(one.metric.name == name and one.options == options for one in found):
            raise SpecError(f"--metric {text} is asked for twice")
        try:
            registry.entry("metric", name)
        except PluginError as error:
            raise SpecError(f"--metric {text}: {error}") from error
        found.append(Asked(text, registry.make("metric", name, options), options))
    return found


def evaluate(
    folder: Path,
    metrics: Sequence[Asked],
    *,
    reference: Path | None = None,
    sampling: Sampling | None = None,
    listener: Listener | None = None,
) -> FolderQuality:
    """Measure the clips of a folder. ``listener`` hears of clips, by metric.

    Clips that are compared one with another pair by path, where both folders have the same ones, or else by order; a
    pair of which one is broken is left out. Raises `SpecError` before any clip is read when a metric lacks its
    reference or captions, or none looks at the reference; `OutputError` when a folder holds nothing readable, or clips
    do not pair; and what `f3core.evaluate.measured` raises.
    """
    how = sampling or Sampling()
    for one in metrics:
        if one.metric.reference is not Reference.NONE and reference is None:
            raise SpecError(f"--metric {one.text} compares clips with {one.metric.reference.value}; give --reference")
    if reference is not None and all(one.metric.reference is Reference.NONE for one in metrics):
        names = ", ".join(one.metric.name for one in metrics)
        raise SpecError(
            f"--reference {reference}: {names} would not look at it; leave it out, or add a metric that does"
        )
    clips = _opened(folder, how, None)
    _check_captions(metrics, clips)
    needed = {one.metric.reference for one in metrics}
    one_each = _paired(clips, _opened(reference, how, None)) if reference and Reference.CLIP in needed else None
    others = _opened(reference, how, how.reference_seed) if reference and Reference.SET in needed else None
    rows = list[Figures]()
    for one in metrics:
        first, second = clips, None
        if one.metric.reference is Reference.SET:
            second = others
        elif one.metric.reference is Reference.CLIP and one_each is not None:
            first, second = one_each
        shown = _Shown(first, one.text, listener)
        compared = None if second is None else _Shown(second, f"{one.text}, reference", listener)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            figures = measured(one.metric, shown, compared)
        rows.append(
            Figures(
                metric=one.metric.name,
                options=dict(one.options),
                higher_is_better=one.metric.higher_is_better,
                figures=figures,
                clips=shown.count,
                reference_clips=compared.count if compared else 0,
                warnings=tuple(dict.fromkeys(str(w.message) for w in said if issubclass(w.category, UserWarning))),
            )
        )
    seen = [found for found in (others, one_each and one_each[1]) if found is not None]
    return FolderQuality(
        folder=str(folder),
        reference=str(reference) if reference else None,
        sampling=how,
        metrics=tuple(rows),
        left_out=_reasons(clips),
        reference_left_out={path: why for found in seen for path, why in _reasons(found).items()},
    )


class _Shown:
    """Clips as a metric goes through them: counted, and told to the listener."""

    def __init__(self, clips: Clips, task: str, listener: Listener | None) -> None:
        self.clips, self.task, self.listener = clips, task, listener
        self.count = 0

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        for batch in self.clips:
            done += len(batch.clips)
            self.count = max(self.count, done)
            yield batch
            if self.listener is not None:
                self.listener(self.task, done, self.clips.count)


def _opened(folder: Path, how: Sampling, seed: int | None) -> Clips:
    return clips_in(
        folder,
        frames=how.frames,
        stride=how.stride,
        size=how.size,
        batch_size=how.batch_size,
        seed=seed if how.frames is not None else None,
    )


def _check_captions(metrics: Sequence[Asked], clips: Clips) -> None:
    lacking = clips.uncaptioned
    for one in metrics:
        if one.metric.needs_prompts and lacking:
            raise SpecError(
                f"--metric {one.text} needs a caption of every clip; {len(lacking)} of {len(clips.files)} in "
                f"{clips.folder} have none, such as {lacking[0]}: write it into a text file beside the clip "
                f"({Path(lacking[0]).name}.txt), or into {clips.folder / 'captions.csv'} with columns file and caption"
            )


def _paired(clips: Clips, reference: Clips) -> tuple[Clips, Clips]:
    """Both folders without the clips that cannot be used, nor those that were to be compared with them.

    Raises `OutputError` when clips do not pair, or two of a pair differ in shape.
    """
    names, others = [file.name for file in clips.files], [file.name for file in reference.files]
    if len(names) != len(others):
        unmatched = sorted(set(names) ^ set(others)) or ["(names repeat)"]
        raise OutputError(
            f"{len(names)} clips in {clips.folder} but {len(others)} in {reference.folder}; they are compared one with "
            f"another, so give as many. Without a clip of that name on the other side: {', '.join(unmatched[:3])}"
        )
    seconds = list(reference.files)
    if set(names) == set(others) and len(set(names)) == len(names):
        by_name = {file.name: file for file in reference.files}
        seconds = [by_name[name] for name in names]
    shapes = [{file.path: tuple(clip.shape) for file, clip in found.each()} for found in (clips, reference)]
    pairs = [
        (one, other)
        for one, other in zip(clips.files, seconds, strict=True)
        if one.path in shapes[0] and other.path in shapes[1]
    ]
    for one, other in pairs:
        if shapes[0][one.path] != shapes[1][other.path]:
            raise OutputError(
                f"{one.path} and {other.path} differ in shape: {list(shapes[0][one.path])} and "
                f"{list(shapes[1][other.path])}; give --frames and --size to bring them together"
            )
    if not pairs:
        raise OutputError(f"no pair of clips in {clips.folder} and {reference.folder} can be used; all are broken")
    return clips.only(one for one, _ in pairs), reference.only(other for _, other in pairs)


def _reasons(clips: Clips) -> dict[str, str]:
    return {path.relative_to(clips.folder).as_posix(): why for path, why in clips.left_out.items()}


def render(found: FolderQuality) -> RenderableType:
    """Figures for people, and what was left out."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    against = f", compared with {found.reference}" if found.reference else ""
    table = Table(title=Text(f"{found.folder}{against}"))
    table.add_column("metric", overflow="fold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("better")
    table.add_column("clips", justify="right")
    table.add_column("reference", justify="right")
    for row in found.metrics:
        options = f" {row.options}" if row.options else ""
        better = "higher" if row.higher_is_better else "lower"
        for name, value in row.figures.items():
            counts = str(row.clips), str(row.reference_clips or "–")
            table.add_row(Text(row.metric + options), Text(name), f"{value:.6g}", better, *counts)
    notes = [Text(f"{row.metric}: {said}", "yellow") for row in found.metrics for said in row.warnings]
    notes += [
        Text(f"left out: {Path(folder or '') / path}: {why}", "yellow")
        for folder, left_out in ((found.folder, found.left_out), (found.reference, found.reference_left_out))
        for path, why in left_out.items()
    ]
    return Group(table, *notes)
