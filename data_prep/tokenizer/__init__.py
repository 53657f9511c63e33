"""Text to token ids: training, encoding, control tokens, and the form other libraries read."""

from data_prep.tokenizer.control import CONTROL_TOKENS, END_OF_DOCUMENT, PAD
from data_prep.tokenizer.encoder import TOKENIZER_FILES, Tokenizer
from data_prep.tokenizer.export import check_export, export
from data_prep.tokenizer.sampling import hash_fraction, sample
from data_prep.tokenizer.training import train

__all__ = [
    "CONTROL_TOKENS", "END_OF_DOCUMENT", "PAD", "TOKENIZER_FILES", "Tokenizer", "check_export", "export", "hash_fraction", "sample",
    "train",
]  # fmt: skip
