"""Identity: one spelling for a value, and a fingerprint that only what decides the bytes can change."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identity import canonical, digest, fingerprint, identity_of_params, plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same value with every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_does_not_count(value: Any) -> None:
    assert canonical(value) == canonical(shuffled(value))


@given(JSON)
def test_canonical_json_reads_back_as_the_value(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@given(JSON, JSON)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {"a": {3}}, b"bytes", object(), [1, (2, {"x": b""})]])
def test_what_is_no_plain_value_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(TypeError, match="value"):
        canonical(value)


def test_integers_and_floats_are_told_apart() -> None:
    assert canonical(1) != canonical(1.0)


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Old:
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()


@dataclass(frozen=True)
class InnerLater:
    depth: int = 2
    width: int | None = field(default=None, metadata={"absent": None})


@dataclass(frozen=True)
class Later:
    lr: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    inner: InnerLater = InnerLater()
    dropout: float = field(default=0.0, metadata={"absent": 0.0})


def test_defaults_are_part_of_identity() -> None:
    assert identity_of_params(Old()) == {"lr": 1e-3, "sizes": [1, 2], "inner": {"depth": 2}} == plain(Old())


def test_a_field_added_later_changes_nothing_while_it_keeps_the_old_behaviour() -> None:
    assert digest(identity_of_params(Later())) == digest(identity_of_params(Old()))
    assert digest(identity_of_params(Later(dropout=0.1))) != digest(identity_of_params(Old()))
    assert digest(identity_of_params(Later(inner=InnerLater(width=8)))) != digest(identity_of_params(Old()))


def test_a_fingerprint_knows_all_it_is_made_of_and_no_order() -> None:
    sources = [("a", 1, "00"), ("b", 2, "11")]
    base = fingerprint("stage", 1, {"x": 1}, {"role": "ff"}, sources)
    assert fingerprint("stage", 1, {"x": 1}, {"role": "ff"}, sources[::-1]) == base
    assert base not in {
        fingerprint("other", 1, {"x": 1}, {"role": "ff"}, sources),
        fingerprint("stage", 2, {"x": 1}, {"role": "ff"}, sources),
        fingerprint("stage", 1, {"x": 2}, {"role": "ff"}, sources),
        fingerprint("stage", 1, {"x": 1}, {"role": "fe"}, sources),
        fingerprint("stage", 1, {"x": 1}, {"role": "ff"}, sources[:1]),
    }
