"""Where, when and with what something is measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Machine(BaseModel):
    """Where the numbers were measured. ``cores``: logical cores this process may use; ``memory``: bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory: int
    gpu: str | None = None
    system: str = ""


class Provenance(BaseModel):
    """What every result of several runs says of where it comes from. ``version``: of its form; ``command`` repeats it;
    ``seeds`` of noise and prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    version: int = 1
    date: str
    machine: Machine
    versions: dict[str, str]
    command: str
    spec: str
    source: str
    seeds: tuple[int, ...]


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Versions of Python, f3core and those libraries it (or an extra of it) depends on that are in use now."""
    try:
        required = importlib.metadata.requires("f3core") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        required = ["torch", "numpy", "fvcore", "safetensors", "pydantic"]
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required})
    found = {"python": platform.python_version()}
    for name in ["f3core", *names]:
        if name == "f3core" or name.replace("-", "_") in sys.modules:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "from a checkout"
    return found


def machine() -> Machine:
    """The machine this runs on. Names a GPU only where torch is loaded and sees one."""
    import psutil

    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}"
    return Machine(cpu=_cpu(), cores=cores, memory=psutil.virtual_memory().total, gpu=gpu, system=system)


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine() or "unknown"
