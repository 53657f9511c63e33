"""Hugging Face model directories: written so that transformers and vLLM load them, and read back.

Torch is imported where tensors are handled, since the process that completes a directory may hold none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.tokenizer.control import CHAT_TEMPLATE
from pipeline.stage import UserError
from trainer.model.config import ModelConfig, from_huggingface, to_huggingface

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.model.transformer import Transformer

WEIGHTS = "model.safetensors"
# what a tokenizer directory may hold; the rest of a model directory is written anew
TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip


def save_weights(state: Mapping[str, Tensor], config: ModelConfig, path: str | Path) -> None:
    """Write the parameters, named as Qwen3's, as safetensors; a tied output layer is left out. Same weights, same bytes."""
    from safetensors.torch import save_file

    skipped = {"lm_head.weight"} if config.tie_word_embeddings else set()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if name not in skipped}
    # a single metadata key: with two their order, and so the file's bytes, would vary
    save_file(tensors, path, metadata={"format": "pt"})


def complete_model(
    directory: str | Path, config: ModelConfig, *, dtype: str, tokenizer: str | Path, end_ids: tuple[int, ...], pad_id: int, card: str
) -> list[str]:
    """Write what a directory with weights lacks, and return the names of all its files, sorted. Same arguments, same bytes.

    dtype      of the weights: float32, bfloat16
    tokenizer  directory whose tokenizer files are copied
    end_ids    ids that end a generation, the document's end first
    card       README.md: what the model is and what it was made from
    """
    target = Path(directory)
    written = [WEIGHTS, "config.json", "generation_config.json", "chat_template.jinja", "README.md"]
    _write_json(target / "config.json", to_huggingface(config, dtype=dtype, bos=None, eos=end_ids[0], pad=pad_id))
    _write_json(target / "generation_config.json", {"do_sample": True, "eos_token_id": list(end_ids), "pad_token_id": pad_id})
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (target / "README.md").write_text(card, encoding="utf-8")
    for name in TOKENIZER_FILES:
        source = Path(tokenizer, name)
        if source.is_file():
            shutil.copyfile(source, target / name)
            written.append(name)
    return sorted(written)


def load_config(directory: str | Path) -> ModelConfig:
    """Raises UserError where the directory has no config.json this project can run."""
    path = Path(directory, "config.json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable config.json ({error}); give a Hugging Face model directory") from None
    return from_huggingface(values, str(path))


def load_for_inference(directory: str | Path) -> Transformer:
    """The model of a directory, on the GPU that this process sees, else on the CPU. UserError as for `load_model`."""
    import torch

    model, _ = load_model(directory)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_model(directory: str | Path, dtype: torch.dtype | None = None) -> tuple[Transformer, ModelConfig]:
    """Read a model directory, of one safetensors file or several, as fp32 where `dtype` says nothing else.

    Raises UserError where files are missing or do not fit.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from trainer.model.transformer import Transformer

    config = load_config(directory)
    index = Path(directory, "model.safetensors.index.json")
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [WEIGHTS]
    state: dict[str, Tensor] = {}
    for name in names:
        try:
            state.update(load_file(Path(directory, name)))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{Path(directory, name)}: no readable safetensors file ({error}); the model must be fetched again") from None
    model = Transformer(config)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state.get("model.embed_tokens.weight", torch.empty(0))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: its tensors do not fit its config.json: {reason}") from None
    return model.to(dtype or torch.float32), config


def model_card(title: str, config: ModelConfig, lineage: Mapping[str, str]) -> str:
    """README.md of a model: its shape, and name → hash of what it was made from, down to the source files."""
    rows = "".join(f"| {name} | `{digest}` |\n" for name, digest in lineage.items())
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# {title}\n\n"
        f"A decoder-only transformer of the Qwen3 architecture made with crawl2chat: {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}, {config.num_attention_heads} query and {config.num_key_value_heads} key-value heads, vocabulary of "
        f"{config.vocab_size}, sequences of up to {config.max_position_embeddings} tokens.\n\n"
        "## Lineage\n\n| made from | sha256 |\n|---|---|\n" + rows
    )


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
