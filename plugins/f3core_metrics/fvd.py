"""`fvd`: Fréchet video distance (Unterthiner et al., arXiv 1812.01717) over any registered feature network."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from f3core.errors import ModelError, PluginError
from f3core.metric import Batch, Features, Metric, Reference
from f3core.registry import installed

from .frechet import Moments, distance

if TYPE_CHECKING:
    from f3core.clip_folder import Clips

ENOUGH = 2048
"""Clips on either side from which papers compare FVD; a covariance of fewer is too narrow for it to be unbiased."""


class SmallSetWarning(UserWarning):
    """FVD was taken of few clips, and is biased upwards."""


class LeftOutWarning(UserWarning):
    """Some clips of a reference folder are broken or too short, and did not count."""


class FVD(Metric):
    """Fréchet distance between clips and other clips, on the features of a network; 0 is best.

    Covariances are unbiased (divided by N − 1), and the distance itself is not: it is too large for small sets, so that
    only figures of as many clips, through the same network, can be compared. Under `ENOUGH` clips it warns.
    """

    name = "fvd"
    higher_is_better = False
    reference = Reference.SET

    def __init__(
        self,
        features: str | Mapping[str, Mapping[str, Any] | None] | None = None,
        reference: str | None = None,
        stride: int = 1,
        seed: int | None = None,
    ) -> None:
        """``features``: a feature network's name, or ``{name: {option: value}}``. ``reference``: a folder of clips that
        stands for whatever clips the caller would compare with. Of each, as many frames are read as the clips have,
        ``stride`` apart, brought to the clips' size (`f3core.clip_folder.clips_in`); the first ones, or, given a
        ``seed``, from a random one on, as StyleGAN-V's protocol takes them.

        Raises `PluginError` that names what is registered for a network that is not, and for none; `OutputError` for a
        folder without clips; `ModelError` for a ``stride`` or ``seed`` without a folder.
        """
        self.folder: Clips | None = None
        if reference is None and (stride != 1 or seed is not None):
            raise ModelError(
                "fvd: stride and seed say how option `reference`, a folder, is read; give it too, or leave them out: "
                "`f3core evaluate` has --stride and --reference-seed of its own"
            )
        if reference is not None:
            from f3core.clip_folder import clips_in

            self.folder = clips_in(reference, stride=stride, seed=seed)
            self.reference = Reference.NONE  # type: ignore[misc]  # whoever measures need not have other clips
        self.features = _network(features)
        self._read: dict[tuple[int, int, int], Moments] = {}

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        """``{"fvd": ...}``. Raises `ModelError` for fewer than two clips on a side, clips that are not all of as many
        frames, or features that are no numbers."""
        made, (frames, height, width) = self._moments(clips, "clips")
        if self.folder is not None:
            real = self._of_folder(self.folder, frames, (height, width))
        elif reference is not None:
            real = self._moments(reference, "reference clips", frames)[0]
        else:
            raise ModelError("fvd compares clips with other clips; give a reference, or option `reference`: a folder")
        if min(made.count, real.count) < ENOUGH:
            warnings.warn(
                f"FVD of {made.count} clips against {real.count}: with fewer than {ENOUGH} on a side it is biased "
                "upwards; compare it only with figures of as many clips",
                SmallSetWarning,
                stacklevel=2,
            )
        return {"fvd": distance(made, real)}

    def _of_folder(self, folder: Clips, frames: int, size: tuple[int, int]) -> Moments:
        """Moments of the reference folder, gone through once for each shape of clips; warns of clips left out."""
        key = (frames, *size)
        if key not in self._read:
            read = replace(folder, frames=frames, size=size, left_out={})
            self._read[key] = self._moments(read, f"clips of {folder.folder}")[0]
            if read.left_out:
                path, why = next(iter(read.left_out.items()))
                warnings.warn(
                    f"FVD leaves out {len(read.left_out)} of {len(read.files)} reference clips, such as {path}: {why}",
                    LeftOutWarning,
                    stacklevel=3,
                )
        return self._read[key]

    def _moments(
        self, batches: Iterable[Batch], what: str, frames: int | None = None
    ) -> tuple[Moments, tuple[int, int, int]]:
        """Moments of all clips, and frames, height and width of the first. All have ``frames``, or as many as it."""
        moments: Moments | None = None
        shape = (0, 0, 0)
        for batch in batches:
            if not len(batch.clips):
                continue
            seen, count = self.features(batch.clips), batch.clips.shape[1]
            frames = count if frames is None else frames
            if count != frames:
                raise ModelError(
                    f"fvd: {what} of {count} frames beside others of {frames}; only clips of as many compare, so "
                    "take as many of all, such as the usual 16 (`f3core evaluate --frames 16`)"
                )
            if moments is None:
                moments, shape = Moments(seen.shape[1]), (count, *batch.clips.shape[3:])
            try:
                moments.add(seen)
            except ValueError as error:
                raise ModelError(f"fvd: feature network {self.features.name!r} on {what}: {error}") from error
        if moments is None or moments.count < 2:
            raise ModelError(f"fvd needs two {what} or more, got {moments.count if moments else 0}")
        return moments, shape


def _network(features: str | Mapping[str, Mapping[str, Any] | None] | None) -> Features:
    registry = installed()
    if isinstance(features, Mapping) and len(features) == 1:
        [(name, options)] = features.items()
        network: Features = registry.make("feature network", name, options)
        return network
    if isinstance(features, str) and features:
        named: Features = registry.make("feature network", features)
        return named
    names = ", ".join(registry.names("feature network"))
    raise PluginError(
        f"metric 'fvd' needs one feature network as `features`: a name, or {{name: {{options}}}}; registered: {names}"
    )
