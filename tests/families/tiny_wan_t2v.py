"""The tiny Wan of the tests beside this folder, text-to-video, among the families."""

from __future__ import annotations

from tiny_wan import CALL, pipeline, transformer

__all__ = ["CALL", "pipeline", "transformer"]
