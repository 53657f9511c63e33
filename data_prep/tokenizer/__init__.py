"""Text to token ids: training, encoding, control tokens, and the form other libraries read."""

from data_prep.tokenizer.control import CONTROL_TOKENS, END_OF_DOCUMENT, PAD
from data_prep.tokenizer.encoder import ENCODER, TOKENIZER_FILES, Tokenizer
from data_prep.tokenizer.export import check_export, export
from data_prep.tokenizer.fast import fast_encoder
from data_prep.tokenizer.sampling import hash_fraction
from data_prep.tokenizer.training import train

__all__ = [
    "CONTROL_TOKENS", "ENCODER", "END_OF_DOCUMENT", "PAD", "TOKENIZER_FILES", "Tokenizer", "check_export", "export", "fast_encoder",
    "hash_fraction", "train",
]  # fmt: skip
