"""Personal data: finding it, replacing it.

`find` and `scrub` are imported when they are first used, since their patterns take a tenth of a second to compile.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_prep.pii.spans import DEFAULT_KINDS, KINDS, PLACEHOLDER, Kind, Span

if TYPE_CHECKING:
    from data_prep.pii.detect import find
    from data_prep.pii.replace import density, scrub

__all__ = ["DEFAULT_KINDS", "KINDS", "PLACEHOLDER", "Kind", "Span", "density", "find", "scrub"]

_LATE = {"find": "data_prep.pii.detect", "scrub": "data_prep.pii.replace", "density": "data_prep.pii.replace"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
