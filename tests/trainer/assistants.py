"""A tiny model with a real tokenizer, for tests of what stands behind training."""

from __future__ import annotations

import json
from pathlib import Path

from data_prep.tokenizer import Tokenizer, export, train
from trainer.data.chat import ChatFormat
from trainer.model.config import ModelConfig
from trainer.model.hf import complete_model, save_weights
from trainer.model.transformer import Transformer

TEXTS = [f"What is {a}+{b}? The user asks and the assistant says {a + b}.\n" for a in range(12) for b in range(12)]
CONFIG = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=128)


def save_tokenizer(directory: Path) -> None:
    """This project's, with 340 tokens."""
    model_file = train(TEXTS, 340)
    directory.mkdir(parents=True)
    (directory / "tokenizer.model").write_bytes(model_file)
    for name, content in export(model_file).items():
        (directory / name).write_bytes(content)


def save_foreign_tokenizer(directory: Path, *control: str) -> None:
    """A byte-level one as others publish theirs, with 340 tokens and these control tokens, of which the first ends a document."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(list(control))
    directory.mkdir(parents=True)
    made.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": control[0], "chat_template": "of its own"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def save_assistant(
    directory: Path, seed: int = 0, config: ModelConfig = CONFIG, control: tuple[str, ...] = ()
) -> tuple[Transformer, Tokenizer, ChatFormat]:
    """Write a Hugging Face directory of an untrained model; returns what it holds. Given control tokens, its tokenizer is a foreign one."""
    source = directory / "tokenizer"
    save_foreign_tokenizer(source, *control) if control else save_tokenizer(source)
    tokenizer = Tokenizer.load(source)
    model = Transformer(config.resolved(tokenizer.vocab_size), seed=seed)
    chat = ChatFormat(tokenizer)
    save_weights(model.state_dict(), model.config, directory)
    ends = (tokenizer.eos_id, chat.end_id)
    complete_model(directory, model.config, dtype="float32", tokenizer=source, end_ids=ends, pad_id=tokenizer.eos_id, card="")
    return model, tokenizer, chat
