"""A tiny model with a real tokenizer, for tests of what stands behind training."""

from __future__ import annotations

from pathlib import Path

from data_prep.tokenizer import Tokenizer, export, train
from trainer.data.chat import ChatFormat
from trainer.model.config import ModelConfig
from trainer.model.hf import complete_model, save_weights
from trainer.model.transformer import Transformer

TEXTS = [f"What is {a}+{b}? The user asks and the assistant says {a + b}.\n" for a in range(12) for b in range(12)]
CONFIG = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=128)


def save_assistant(directory: Path, seed: int = 0, config: ModelConfig = CONFIG) -> tuple[Transformer, Tokenizer, ChatFormat]:
    """Write a Hugging Face directory of an untrained model; returns what it holds."""
    model_file = train(TEXTS, 340)
    source = directory / "tokenizer"
    source.mkdir(parents=True)
    (source / "tokenizer.model").write_bytes(model_file)
    for name, content in export(model_file).items():
        (source / name).write_bytes(content)
    tokenizer = Tokenizer.load(source)
    model = Transformer(config.resolved(tokenizer.vocab_size), seed=seed)
    chat = ChatFormat(tokenizer)
    save_weights(model.state_dict(), model.config, directory)
    ends = (tokenizer.eos_id, chat.end_id)
    complete_model(directory, model.config, dtype="float32", tokenizer=source, end_ids=ends, pad_id=tokenizer.eos_id, card="")
    return model, tokenizer, chat
