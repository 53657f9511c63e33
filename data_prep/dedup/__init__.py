"""Duplicate documents.

>>> from data_prep.dedup import near_duplicates
>>> near_duplicates(["the same five words here", "quite other words are there", "The same five words here!"], threshold=0.8)
[(0, 2, 1.0)]
"""

from data_prep.dedup.near import near_duplicates

__all__ = ["near_duplicates"]
