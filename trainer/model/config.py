"""The shape of a transformer, and its translation to and from Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta

from pipeline.stage import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Fields are named as in Qwen3's config.json. A size of 0 is filled in by `resolved`."""

    vocab_size: Annotated[int, Meta(ge=0, description="token ids; 0: the tokenizer's")] = 0
    hidden_size: Annotated[int, Meta(ge=8, description="width of the residual stream")] = 128
    num_hidden_layers: Annotated[int, Meta(ge=1, description="transformer blocks")] = 4
    num_attention_heads: Annotated[int, Meta(ge=1, description="query heads")] = 4
    num_key_value_heads: Annotated[int, Meta(ge=0, description="key and value heads; 0: as many as query heads")] = 0
    head_dim: Annotated[int, Meta(ge=0, description="width of a head; 0: hidden_size / num_attention_heads")] = 0
    intermediate_size: Annotated[int, Meta(ge=0, description="width of the feed-forward layer; 0: 8/3 hidden_size")] = 0
    max_position_embeddings: Annotated[int, Meta(ge=8, description="longest sequence, tokens")] = 1024
    rope_theta: Annotated[float, Meta(gt=1, description="base of the rotary frequencies")] = 10_000.0
    rms_norm_eps: Annotated[float, Meta(gt=0, lt=1e-2)] = 1e-6
    tie_word_embeddings: Annotated[bool, Meta(description="use the embedding matrix as output layer too")] = True

    def __post_init__(self) -> None:
        if self.head_dim == 0 and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}; "
                "change one or set head_dim"
            )
        if (self.head_dim or self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("a head's width must be even for rotary positions; set head_dim to an even number")
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads {self.num_key_value_heads}; "
                "set num_key_value_heads to a divisor"
            )

    def resolved(self, vocab_size: int) -> ModelConfig:
        """The same shape with every 0 replaced. Raises ValueError where `vocab_size` contradicts the tokenizer's."""
        if self.vocab_size and self.vocab_size < vocab_size:
            raise ValueError(f"vocab_size {self.vocab_size} is smaller than the tokenizer's {vocab_size}; set vocab_size=0")
        return replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            num_key_value_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            # rounded up to a multiple of 16, which matrix units like
            intermediate_size=self.intermediate_size or -(-8 * self.hidden_size // 48) * 16,
        )


def to_huggingface(config: ModelConfig, *, dtype: str, bos: int | None, eos: int | None, pad: int | None) -> dict[str, Any]:
    """The content of config.json for a resolved `config`; the special ids are the tokenizer's."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def from_huggingface(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read a config.json. Raises UserError for an architecture this project cannot run; `where` names the file."""
    if values.get("model_type") != "qwen3":
        raise UserError(f"{where}: model_type is {values.get('model_type')!r}; only qwen3 models can be loaded")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    for name, found in {
        "attention_bias": values.get("attention_bias"),
        "use_sliding_window": values.get("use_sliding_window"),
        "rope_type": rope.get("rope_type", "default") != "default",
        "hidden_act": values.get("hidden_act", "silu") != "silu",
    }.items():
        if found:
            raise UserError(f"{where}: its {name} is not supported; choose a plain qwen3 model")
    heads = values["num_attention_heads"]
    return ModelConfig(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        num_hidden_layers=values["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        intermediate_size=values["intermediate_size"],
        max_position_embeddings=values["max_position_embeddings"],
        rope_theta=float(values.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=values.get("tie_word_embeddings", False),
    )
