"""Evaluation data in training text: found by shared runs of words, dropped or cut out, counted by evaluation set."""

from data_prep.decontaminate.index import Evaluation, Index, Overlap
from data_prep.decontaminate.records import read_evaluation
from data_prep.decontaminate.removal import Removal, reason, remove

__all__ = ["Evaluation", "Index", "Overlap", "Removal", "read_evaluation", "reason", "remove"]
