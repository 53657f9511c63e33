"""What an artifact was built by: code, packages, host. It stands in the manifest and is no part of identity."""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.stage import Stage
    from pipeline.states import Reason

DISTRIBUTION = "crawl2chat"


def provenance(stage: Stage) -> dict[str, Any]:
    """Code digest and commit, package versions, Python and host of this process."""
    return {
        "code": code_digest(_package(stage)),
        "commit": _commit(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "host": socket.gethostname(),
    }


def changed_since(manifest: Mapping[str, Any], stage: Stage, name: str) -> Iterator[Reason]:
    """What differs today from what built an artifact, as far as it could have decided its bytes."""
    from pipeline.states import Reason

    if manifest["provenance"]["code"] != code_digest(_package(stage)):
        yield Reason("code changed since this was built", remedy=f"force=[{name}] or raise its version, if the output should change")


@cache
def code_digest(package: str) -> str:
    """sha256 over the Python files of a top-level package, by name."""
    total = hashlib.sha256()
    module = sys.modules[package]
    roots = [Path(entry) for entry in getattr(module, "__path__", [])] or [Path(str(module.__file__))]
    for root in roots:
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            total.update(f"{path.relative_to(root.parent).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@cache
def package_versions() -> dict[str, str]:
    """Versions of the installed packages this project asks for."""
    versions = {}
    for requirement in metadata.requires(DISTRIBUTION) or []:
        name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            versions[name] = metadata.version(name)
    return versions


@cache
def _commit() -> str | None:
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():  # installed from a wheel, maybe inside someone else's repository
        return None
    try:
        result = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _package(stage: Stage) -> str:
    return stage.function.__module__.split(".")[0]
