"""The shape of a transformer, and its translation to and from Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipeline.stage import UserError

Architecture = Literal["qwen3", "llama", "qwen3_moe", "glm4_moe", "mixtral", "gpt2"]
CLASSES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "glm4_moe": "Glm4MoeForCausalLM"}
# what a config.json calls the number of experts; transformers itself writes the second name
EXPERTS = {"qwen3_moe": ("num_experts", "num_local_experts"), "glm4_moe": ("n_routed_experts", "num_local_experts")}
# fields that only some architectures have; everywhere else they keep their default
ONLY = {
    "num_experts": ("qwen3_moe", "glm4_moe", "mixtral"),
    "num_experts_per_tok": ("qwen3_moe", "glm4_moe", "mixtral"),
    "moe_intermediate_size": ("qwen3_moe", "glm4_moe"),
    "norm_topk_prob": ("qwen3_moe", "glm4_moe"),
    "n_shared_experts": ("glm4_moe",),
    "first_k_dense_replace": ("glm4_moe",),
    "routed_scaling_factor": ("glm4_moe",),
    "n_group": ("glm4_moe",),
    "topk_group": ("glm4_moe",),
    "partial_rotary_factor": ("glm4_moe",),
    "use_qk_norm": ("glm4_moe",),
    "attention_bias": ("glm4_moe",),
    "rope_scaling": ("qwen3", "llama", "qwen3_moe", "glm4_moe", "mixtral"),
}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer sequences; named as in config.json's `rope_scaling`."""

    rope_type: Annotated[Literal["default", "linear", "llama3", "yarn"], Meta(description="default: not at all")] = "default"
    factor: Annotated[float, Meta(ge=1, description="how many times longer sequences become")] = 1.0
    low_freq_factor: Annotated[float, Meta(gt=0, description="llama3: waves longer than original / this are stretched in full")] = 1.0
    high_freq_factor: Annotated[float, Meta(gt=0, description="llama3: waves shorter than original / this are left alone")] = 4.0
    original_max_position_embeddings: Annotated[
        int, Meta(ge=0, description="llama3, yarn: longest sequence before the stretching, tokens; 0: max_position_embeddings")
    ] = 0
    attention_factor: Annotated[float, Meta(ge=0, description="yarn: multiplies cosines and sines; 0: 0.1 ln(factor) + 1")] = 0.0
    beta_fast: Annotated[float, Meta(gt=0, description="yarn: planes that turn more often than this are left alone")] = 32.0
    beta_slow: Annotated[float, Meta(gt=0, description="yarn: planes that turn less often than this are stretched in full")] = 1.0

    def __post_init__(self) -> None:
        used = {
            "default": (),
            "linear": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn": ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        }[self.rope_type]
        for name in (found.name for found in fields(self) if found.name != "rope_type" and found.name not in used):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"rope_scaling.{name} means nothing at rope_type={self.rope_type}; set rope_scaling.rope_type or leave it out"
                )
        if self.rope_type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("rope_scaling.high_freq_factor must exceed low_freq_factor; Llama 3.1 has 4 and 1")
        if self.rope_type == "yarn" and self.beta_fast <= self.beta_slow:
            raise ValueError("rope_scaling.beta_fast must exceed beta_slow; the usual values are 32 and 1")


@dataclass(frozen=True)
class ModelConfig:
    """Fields are named as in transformers' configs. A size of 0 is filled in by `resolved`."""

    vocab_size: Annotated[int, Meta(ge=0, description="token ids; 0: the tokenizer's")] = 0
    hidden_size: Annotated[int, Meta(ge=8, description="width of the residual stream")] = 128
    num_hidden_layers: Annotated[int, Meta(ge=1, le=10_000, description="transformer blocks")] = 4
    num_attention_heads: Annotated[int, Meta(ge=1, description="query heads")] = 4
    num_key_value_heads: Annotated[int, Meta(ge=0, description="key and value heads; 0: as many as query heads")] = 0
    head_dim: Annotated[int, Meta(ge=0, description="width of a head; 0: hidden_size / num_attention_heads")] = 0
    intermediate_size: Annotated[
        int, Meta(ge=0, description="width of the feed-forward layer; 0: 8/3 hidden_size (gpt2: 4 hidden_size)")
    ] = 0
    max_position_embeddings: Annotated[int, Meta(ge=8, description="longest sequence, tokens")] = 1024
    rope_theta: Annotated[float, Meta(gt=1, description="base of the rotary frequencies")] = 10_000.0
    rms_norm_eps: Annotated[float, Meta(gt=0, lt=1e-2)] = 1e-6
    tie_word_embeddings: Annotated[bool, Meta(description="use the embedding matrix as output layer too")] = True
    architecture: Annotated[Architecture, Meta(description="layout of transformers' class; mixtral and gpt2 can only be planned")] = field(
        default="qwen3", metadata={"absent": "qwen3"}
    )
    rope_scaling: Annotated[RopeScaling, Meta(description="rotary frequencies for longer sequences")] = field(
        default=RopeScaling(), metadata={"absent": RopeScaling()}
    )
    num_experts: Annotated[int, Meta(ge=0, description="experts of a layer that tokens are routed to; 0: a dense model")] = field(
        default=0, metadata={"absent": 0}
    )
    num_experts_per_tok: Annotated[int, Meta(ge=0, description="experts a token is sent to")] = field(default=0, metadata={"absent": 0})
    moe_intermediate_size: Annotated[int, Meta(ge=0, description="width of an expert (mixtral's is intermediate_size)")] = field(
        default=0, metadata={"absent": 0}
    )
    norm_topk_prob: Annotated[bool, Meta(description="the weights of a token's experts add up to 1")] = field(
        default=True, metadata={"absent": True}
    )
    n_shared_experts: Annotated[int, Meta(ge=0, description="glm4_moe: experts every token is sent to")] = field(
        default=0, metadata={"absent": 0}
    )
    first_k_dense_replace: Annotated[int, Meta(ge=0, description="glm4_moe: so many first layers are dense")] = field(
        default=0, metadata={"absent": 0}
    )
    routed_scaling_factor: Annotated[float, Meta(gt=0, description="glm4_moe: multiplies what routed experts give")] = field(
        default=1.0, metadata={"absent": 1.0}
    )
    n_group: Annotated[int, Meta(ge=1, description="glm4_moe: groups of experts")] = field(default=1, metadata={"absent": 1})
    topk_group: Annotated[int, Meta(ge=1, description="glm4_moe: groups a token's experts may come from")] = field(
        default=1, metadata={"absent": 1}
    )
    partial_rotary_factor: Annotated[float, Meta(gt=0, le=1, description="glm4_moe: share of a head that turns")] = field(
        default=1.0, metadata={"absent": 1.0}
    )
    use_qk_norm: Annotated[bool, Meta(description="glm4_moe: normalise queries and keys, as qwen3 always does and llama never")] = field(
        default=False, metadata={"absent": False}
    )
    attention_bias: Annotated[bool, Meta(description="glm4_moe: biases of queries, keys and values")] = field(
        default=False, metadata={"absent": False}
    )

    depth: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="one dial: so many layers, from which width, heads, pretrain's lr, batch_tokens and max_steps follow "
            "where the command line does not set them; 0: all as given",
        ),
    ] = field(default=0, metadata={"absent": 0})

    def __post_init__(self) -> None:
        if self.depth:  # judged once the sizes that follow from it stand
            return
        self._check_attention()
        for name, architectures in ONLY.items():
            default = type(self).__dataclass_fields__[name].default
            if self.architecture not in architectures and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is no part of {self.architecture}; leave it out, or set architecture to {' or '.join(architectures)}"
                )
        if self.architecture in ONLY["num_experts"]:
            self._check_experts()

    def _check_attention(self) -> None:
        # transformers' llama refuses it even where head_dim is given
        if (self.head_dim == 0 or self.architecture == "llama") and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}; "
                "change one" + ("" if self.architecture == "llama" else " or set head_dim")
            )
        head = self.head_dim or self.hidden_size // self.num_attention_heads
        if head % 2:
            raise ValueError("a head's width must be even for rotary positions; set head_dim to an even number")
        if int(head * self.partial_rotary_factor) % 2 or not int(head * self.partial_rotary_factor):
            raise ValueError(
                f"partial_rotary_factor {self.partial_rotary_factor} of a head of {head} is no even width; the usual value is 0.5"
            )
        if self.num_key_value_heads and self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads {self.num_key_value_heads}; "
                "set num_key_value_heads to a divisor"
            )
        if self.architecture == "gpt2" and self.num_key_value_heads not in (0, self.num_attention_heads):
            raise ValueError("gpt2 has as many key and value heads as query heads; set num_key_value_heads=0")

    def _check_experts(self) -> None:
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"a token cannot be sent to {self.num_experts_per_tok} of {self.num_experts} experts; "
                f"{self.architecture} needs num_experts and, from 1 to that, num_experts_per_tok"
            )
        if self.architecture != "mixtral" and not self.moe_intermediate_size:
            raise ValueError(f"{self.architecture} needs moe_intermediate_size, the width of an expert; set it")
        if self.architecture != "glm4_moe":
            return
        if not self.n_shared_experts:
            raise ValueError("glm4_moe always has shared experts; set n_shared_experts to 1 or more, or architecture to qwen3_moe")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace {self.first_k_dense_replace} exceeds num_hidden_layers {self.num_hidden_layers}; lower it"
            )
        size = self.num_experts // self.n_group
        few = self.topk_group > self.n_group or size * self.topk_group < self.num_experts_per_tok
        if self.num_experts % self.n_group or size < 2 or few:
            raise ValueError(
                f"{self.num_experts} experts in {self.n_group} groups of which {self.topk_group} are open to a token: groups must be "
                f"equal, of 2 and more, and the open ones must hold {self.num_experts_per_tok} experts; 1 and 1 mean no groups"
            )

    @property
    def trainable(self) -> bool:
        """Whether this project has the model; the others can be planned."""
        return self.architecture in CLASSES

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.use_qk_norm or self.architecture in ("qwen3", "qwen3_moe")

    @property
    def rotary_dim(self) -> int:
        """How much of a (resolved) head turns with the position."""
        return int(self.head_dim * self.partial_rotary_factor)

    def sparse(self, layer: int) -> bool:
        """Whether the feed-forward part of this layer is a mixture of experts."""
        return self.num_experts > 0 and layer >= self.first_k_dense_replace

    def resolved(self, vocab_size: int) -> ModelConfig:
        """The same shape with every 0 replaced. Raises ValueError where `vocab_size` contradicts the tokenizer's."""
        if self.vocab_size and self.vocab_size < vocab_size:
            raise ValueError(f"vocab_size {self.vocab_size} is smaller than the tokenizer's {vocab_size}; set vocab_size=0")
        scaling = self.rope_scaling
        if scaling.rope_type in ("llama3", "yarn") and not scaling.original_max_position_embeddings:
            scaling = replace(scaling, original_max_position_embeddings=self.max_position_embeddings)
        # rounded up to a multiple of 16, which matrix units like
        wide = 4 * self.hidden_size if self.architecture == "gpt2" else -(-8 * self.hidden_size // 48) * 16
        return replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            num_key_value_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            intermediate_size=self.intermediate_size or wide,
            rope_scaling=scaling,
        )


def to_huggingface(config: ModelConfig, *, dtype: str, bos: int | None, eos: int | None, pad: int | None) -> dict[str, Any]:
    """The content of config.json for a resolved, trainable `config`; the special ids are the tokenizer's."""
    values: dict[str, Any] = {
        "architectures": [CLASSES[config.architecture]],
        "model_type": config.architecture,
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
        "rope_scaling": _rope_values(config.rope_scaling),
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.architecture in ("qwen3", "qwen3_moe"):
        values["use_sliding_window"] = False
    if config.architecture == "llama":
        values["mlp_bias"] = False
    if config.num_experts:
        values |= {
            EXPERTS[config.architecture][0]: config.num_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "moe_intermediate_size": config.moe_intermediate_size,
            "norm_topk_prob": config.norm_topk_prob,
        }
    if config.architecture == "qwen3_moe":
        values |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if config.architecture == "glm4_moe":
        names = ("n_shared_experts", "first_k_dense_replace", "routed_scaling_factor", "n_group", "topk_group", "partial_rotary_factor")
        values |= {name: getattr(config, name) for name in (*names, "use_qk_norm")}
        values["num_nextn_predict_layers"] = 0
    return values


def _rope_values(scaling: RopeScaling) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json."""
    match scaling.rope_type:
        case "default":
            return None
        case "linear":
            names: tuple[str, ...] = ("factor",)
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        case "yarn":
            names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
            names += ("attention_factor",) if scaling.attention_factor else ()
    return {"rope_type": scaling.rope_type, **{name: getattr(scaling, name) for name in names}}


def from_huggingface(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Read a config.json. Raises UserError for an architecture this project cannot run; `where` names the file."""
    architecture = values.get("model_type")
    if not isinstance(architecture, str) or architecture not in CLASSES:
        raise UserError(f"{where}: model_type is {architecture!r}; only {', '.join(CLASSES)} models can be loaded")
    # transformers 5 writes the first, everything older the second beside a plain rope_theta
    told = [values[name] for name in ("rope_parameters", "rope_scaling") if values.get(name)]
    if len(told) == 2 and told[0] != told[1]:
        raise UserError(f"{where}: its rope_parameters and its rope_scaling are not the same; keep one of them")
    rope = told[0] if told else {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}: its rotary parameters are {rope!r}; fetch the model again")
    sparse = architecture in EXPERTS
    for name, found in {
        "attention_bias": values.get("attention_bias") and architecture != "glm4_moe",
        "mlp_bias": values.get("mlp_bias"),
        "use_sliding_window": values.get("use_sliding_window"),
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "rope_type": _rope_type(rope) not in ("default", "linear", "llama3", "yarn"),
        "mscale": rope.get("mscale") or rope.get("mscale_all_dim"),
        "truncate": not rope.get("truncate", True),
        "mlp_only_layers": values.get("mlp_only_layers"),
        "decoder_sparse_step": values.get("decoder_sparse_step", 1) != 1,
        "quantization_config": values.get("quantization_config"),
    }.items():
        if found:
            raise UserError(f"{where}: its {name} is not supported; choose a plain {architecture} model")
    try:
        heads = values["num_attention_heads"]
        shape = {
            "architecture": architecture,
            "vocab_size": values["vocab_size"],
            "hidden_size": values["hidden_size"],
            "num_hidden_layers": values["num_hidden_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": values.get("num_key_value_heads") or heads,
            "head_dim": values.get("head_dim") or values["hidden_size"] // heads,
            "intermediate_size": values["intermediate_size"],
            "max_position_embeddings": values["max_position_embeddings"],
            "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
            "rope_scaling": _rope_scaling(rope, values["max_position_embeddings"]),
            "rms_norm_eps": values["rms_norm_eps"],
            "tie_word_embeddings": values.get("tie_word_embeddings", False),
        }
        if sparse:
            number = next((values[name] for name in EXPERTS[architecture] if name in values), 0)
            shape |= {"num_experts": number, "norm_topk_prob": values.get("norm_topk_prob", architecture == "glm4_moe")}
            shape |= {name: values[name] for name in ("num_experts_per_tok", "moe_intermediate_size")}
        if architecture == "glm4_moe":
            names = ("n_shared_experts", "first_k_dense_replace", "routed_scaling_factor", "n_group", "topk_group")
            shape |= {name: values[name] for name in names}
            shape |= {name: values.get(name, False) for name in ("use_qk_norm", "attention_bias")}
            shape["partial_rotary_factor"] = rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 0.5
        config = msgspec.convert(asdict(ModelConfig(**shape)), ModelConfig)
        if not config.vocab_size:
            raise ValueError("its vocab_size is 0; fetch the model again")
        return config
    except KeyError as error:
        raise UserError(f"{where}: it has no {error.args[0]}; fetch the model again") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:  # msgspec's are ValueErrors
        raise UserError(f"{where}: {error}") from None


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _rope_scaling(rope: Mapping[str, Any], longest: int) -> RopeScaling:
    kind = _rope_type(rope)
    values = {item.name: rope[item.name] for item in fields(RopeScaling) if item.name != "rope_type" and rope.get(item.name) is not None}
    if kind == "default":
        return RopeScaling()
    if "factor" not in values:
        raise ValueError(f"its rope_type is {kind} without a factor; set it")
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", longest)
    return RopeScaling(rope_type=kind, **values)  # type: ignore[arg-type]
