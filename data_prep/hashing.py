"""Hashes of many things at once, in arrays of 64-bit numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


def mixed(values: NDArray[numpy.uint64]) -> NDArray[numpy.uint64]:
    """The values after the finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place: one to one, every bit depends on every bit."""
    import numpy

    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> numpy.uint64(shift)
        values *= numpy.uint64(factor)
    values ^= values >> numpy.uint64(31)
    return values
