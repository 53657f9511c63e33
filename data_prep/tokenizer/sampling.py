"""Choosing documents by the hash of their ids, so that the choice depends on no order and no division into files."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable


def hash_fraction(document_id: str, purpose: str) -> float:
    """A number in [0, 1) that looks uniform and depends on the id alone; each purpose draws independently of the others."""
    digest = hashlib.sha256(f"{purpose}\0{document_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def sample(documents: Iterable[tuple[str, str]], sample_bytes: int) -> list[str]:
    """The texts of (id, text) pairs in the order of their ids' hashes, up to the one that reaches `sample_bytes` of UTF-8.

    One pass; holds little more than the sample in memory.
    """
    kept: list[tuple[float, str, str, int]] = []  # largest hash first: the heap is ordered by its negative
    total = 0
    for document_id, text in documents:
        size = len(text.encode())
        heapq.heappush(kept, (-hash_fraction(document_id, "tokenizer"), document_id, text, size))
        total += size
        while total - kept[0][3] >= sample_bytes:
            total -= heapq.heappop(kept)[3]
    kept.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [text for _, _, text, _ in kept]
