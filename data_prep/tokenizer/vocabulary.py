"""The pieces of a trained model and the merges that make them, for encoders other than sentencepiece."""

from __future__ import annotations

from collections.abc import Mapping

import sentencepiece


def pieces(model: bytes) -> tuple[dict[str, int], dict[str, float]]:
    """All pieces with their ids, and the scores of the learned ones (newline, a piece by itself, is in no merge)."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary: dict[str, int] = {}
    scores: dict[str, float] = {}
    for number in range(processor.get_piece_size()):
        piece = processor.id_to_piece(number)
        vocabulary[piece] = number
        if piece != "\n" and not (processor.is_control(number) or processor.is_byte(number) or processor.is_unknown(number)):
            scores[piece] = processor.get_score(number)
    return vocabulary, scores


def merges(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to split a learned piece in two, in the order in which sentencepiece joins.

    sentencepiece joins the neighbours whose union is the best-scored piece; so each way to split a learned piece in two pieces is
    a merge, ranked by the piece's score.
    """
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: (-scores[piece], vocabulary[piece]))
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
