"""Identity: canonical JSON and the fingerprints made of it. Pure functions of values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def canonical(value: Any, where: str = "value") -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces, UTF-8, floats by their shortest round-trip form.

    Only null, booleans, integers, finite floats, strings, lists, tuples and string-keyed mappings have one; anything
    else raises TypeError with the place, which begins with `where`, since a value stringified to fit would make two different things equal.
    """
    _require_plain(value, where)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _require_plain(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}: only finite numbers have an identity")
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only strings can be keys")
            _require_plain(item, f"{where}.{key}")
        return
    raise TypeError(f"{where} is a {type(value).__name__}: no plain JSON value. Turn it into one where it is made.")


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """A dataclass (and all inside it) as dicts and lists, every default included; other values as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def identity_of_params(params: Any) -> dict[str, Any]:
    """Params (a frozen dataclass) as plain values, every default resolved.

    A field added after the first release states its old behaviour with `field(metadata={"absent": value})`: it is left
    out when it has that value, so that nothing built before the field existed changes its fingerprint.
    """
    kept = {}
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if "absent" in field.metadata and plain(value) == plain(field.metadata["absent"]):
            continue
        kept[field.name] = identity_of_params(value) if dataclasses.is_dataclass(value) else plain(value)
    return kept


def fingerprint(
    stage: str,
    version: int,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    sources: Iterable[tuple[str, int, str]],
) -> str:
    """The identity of an artifact before it exists.

    `params` as given by `identity_of_params`, `inputs` role → fingerprint, `sources` (name, bytes, sha256).
    """
    return digest({"stage": stage, "version": version, "params": params, "inputs": inputs, "sources": sorted(map(list, sources))})


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """The identity of what was made: over (name, sha256) of every published file."""
    return digest(sorted(map(list, files)))
