"""Hugging Face model directories: written so that transformers and vLLM load them, and read back.

Torch is imported where tensors are handled, since the process that completes a directory may hold none, and a plan reads config.json alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import UserError
from trainer.model.config import ModelConfig, from_huggingface, to_huggingface

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.model.transformer import Settle, Transformer

WEIGHTS = "model.safetensors"
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "BF16", "F16")  # others are quantised, and mean nothing without their scales
SHARD_BYTES = 5_000_000_000  # larger models are written as several files
ARCHITECTURES = {"qwen3": "Qwen3", "llama": "Llama", "qwen3_moe": "Qwen3-MoE", "glm4_moe": "Glm4Moe"}
CHAT_TEMPLATE = "chat_template.jinja"
# what a tokenizer directory may hold; the rest of a model directory is written anew
TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", CHAT_TEMPLATE,
)  # fmt: skip


def save_weights(state: Mapping[str, Tensor], config: ModelConfig, directory: str | Path) -> None:
    """Write the parameters, named as in public checkpoints, as safetensors; a tied output layer is left out. Same weights, same bytes.

    One file, or where it would be larger than SHARD_BYTES several and their index, as transformers has them.
    """
    from safetensors.torch import save_file

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    (target / INDEX).unlink(missing_ok=True)  # of other weights that were here
    places = checkpoint_tensors(state, config)
    shards = _shards(places)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names if len(shards) > 1 else [WEIGHTS], shards, strict=True):
        tensors = {part: places[part].detach().cpu().contiguous() for part in shard}
        # a single metadata key: with two their order, and so the file's bytes, would vary
        save_file(tensors, target / name, metadata={"format": "pt"})
    if len(shards) > 1:
        files = {part: name for name, shard in zip(names, shards, strict=True) for part in shard}
        total = sum(tensor.nbytes for tensor in places.values())
        _write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": files})


def _shards(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Their names in order, cut before a file would exceed SHARD_BYTES; a larger tensor has a file of its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def checkpoint_tensors(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A checkpoint's names and, for each, its place in a model's state: a view, to be read or written.

    The only difference between the two: a checkpoint has three matrices for each expert, a model one stack of all experts'
    gate and up projections and one of their down projections. Left out are a tied output layer and the counts of the load,
    which transformers does not know.
    """
    places = {}
    for name, tensor in state.items():
        if name.endswith(".tokens_per_expert") or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        stack, _, kind = name.rpartition(".")
        if not stack.endswith(".experts"):
            places[name] = tensor
            continue
        for number, matrix in enumerate(tensor):
            if kind == "down_proj":
                places[f"{stack}.{number}.down_proj.weight"] = matrix
            else:
                places[f"{stack}.{number}.gate_proj.weight"], places[f"{stack}.{number}.up_proj.weight"] = matrix.chunk(2)
    return places


def complete_model(
    directory: str | Path,
    config: ModelConfig,
    *,
    dtype: str,
    tokenizer: str | Path,
    end_ids: tuple[int, ...],
    pad_id: int,
    card: str,
    template: str | None = None,
) -> list[str]:
    """Write what a directory with weights lacks, and return the names of all its files, sorted. Same arguments, same bytes.

    dtype      of the weights: float32, bfloat16, float16
    tokenizer  directory whose tokenizer files are copied
    end_ids    ids that end a generation, the document's end first
    card       README.md: what the model is and what it was made from
    template   chat template; None: the tokenizer's, if it has one
    """
    target = Path(directory)
    weights = [path.name for path in _weight_files(target)] + [INDEX] * (target / INDEX).is_file()
    written = [*weights, "config.json", "generation_config.json", "README.md"]
    _write_json(target / "config.json", to_huggingface(config, dtype=dtype, bos=None, eos=end_ids[0], pad=pad_id))
    _write_json(target / "generation_config.json", {"do_sample": True, "eos_token_id": list(end_ids), "pad_token_id": pad_id})
    (target / "README.md").write_text(card, encoding="utf-8")
    for name in TOKENIZER_FILES:
        source = Path(tokenizer, name)
        if source.is_file():
            shutil.copyfile(source, target / name)
            written.append(name)
    if template is not None:
        (target / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        written.append(CHAT_TEMPLATE)
    return sorted({*written})


def load_config(directory: str | Path) -> ModelConfig:
    """Raises UserError where the directory has no config.json this project can run."""
    return from_huggingface(_read_config(directory), str(Path(directory, "config.json")))


def _read_config(directory: str | Path) -> dict[str, Any]:
    path = Path(directory, "config.json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("it is no JSON object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no readable config.json ({error}); give a Hugging Face model directory") from None
    return values


def load_for_inference(directory: str | Path) -> Transformer:
    """The model of a directory, in the precision it was saved in on the GPU that this process sees, else in fp32 on the CPU. UserError
    as for `load_model`."""
    import torch

    from trainer.model.transformer import on

    if not torch.cuda.is_available():
        return load_model(directory)[0].eval()
    values = _read_config(directory)
    dtype = getattr(torch, str(values.get("dtype") or values.get("torch_dtype")), torch.float32)
    return load_model(directory, on("cuda", dtype))[0].to("cuda").eval()


def load_model(directory: str | Path, settle: Settle | None = None) -> tuple[Transformer, ModelConfig]:
    """Read a model directory, of one safetensors file or several, parameter by parameter; each is put where `settle` says as soon as it is
    read, without one on the CPU in fp32.

    Raises UserError where files are missing or do not fit.
    """
    from trainer.model.transformer import Transformer, as_made

    config = load_config(directory)
    model = Transformer(config, seed=None)
    with _opened(_weight_files(Path(directory))) as files:
        _require_fit(directory, files, config, checkpoint_tensors(model.state_dict(), config))

        def read(name: str, tensor: Tensor) -> None:
            for part, place in checkpoint_tensors({name: tensor}, config).items():
                place.copy_(files[part].get_tensor(part))

        model.fill(read, settle or as_made)
        for name, buffer in model.named_buffers():
            read(name, buffer)
    return model, config


def require_model(directory: str | Path) -> ModelConfig:
    """The shape of a directory's model. UserError as for `load_model`, of which this reads no more than what the files say they hold."""
    from trainer.model.transformer import Transformer

    config = load_config(directory)
    with _opened(_weight_files(Path(directory))) as files:
        _require_fit(directory, files, config, checkpoint_tensors(Transformer(config, seed=None).state_dict(), config))
    return config


@contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """The open file that holds each tensor, by the tensor's name. UserError where one is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        found: dict[str, Any] = {}
        for path in paths:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: no readable safetensors file ({error}); the model must be fetched again") from None
            found |= dict.fromkeys(file.keys(), file)
        yield found


def _require_fit(directory: str | Path, files: Mapping[str, Any], config: ModelConfig, wanted: Mapping[str, Tensor]) -> None:
    """Raise UserError where the files' tensors are not those `wanted`, in name or shape."""
    unfit = []
    for name in sorted(files):
        if name in wanted:
            shape, right = list(files[name].get_slice(name).get_shape()), list(wanted[name].shape)
            kind = files[name].get_slice(name).get_dtype()
            if shape != right:
                unfit.append(f"{name} is {shape}, not {right}")
            elif kind not in DTYPES:
                unfit.append(f"{name} holds {kind}, not one of {', '.join(DTYPES)}")
        elif not _needless(name, config):
            unfit.append(f"{name} is unknown")
    unfit += [f"{name} is missing" for name in wanted if name not in files]
    if unfit:
        more = f", and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise UserError(
            f"{directory}: its tensors do not fit its config.json: {', '.join(unfit[:3])}{more}; the model must be fetched again"
        )
    if config.tie_word_embeddings and OUTPUT in files:
        output, embedding = (files[name].get_tensor(name) for name in (OUTPUT, EMBEDDING))
        if output.shape != embedding.shape or bool((output != embedding).any()):
            raise UserError(f"{directory}: its {OUTPUT} is not its {EMBEDDING}; set tie_word_embeddings to false in its config.json")


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory."""
    index = directory / INDEX
    if not index.is_file():
        return [directory / WEIGHTS]
    try:
        return [directory / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no readable index ({error!r}); the model must be fetched again") from None


def _needless(name: str, config: ModelConfig) -> bool:
    """Tensors that public checkpoints hold beside the model: what a tied output layer repeats, frequencies that follow from
    config.json, and Glm4Moe's layers for predicting several tokens at once, which transformers leaves out as well."""
    layer = name.removeprefix("model.layers.").split(".")[0]
    if layer != name and layer.isdigit() and int(layer) >= config.num_hidden_layers:
        return config.architecture == "glm4_moe"
    return name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings)


def model_card(title: str, config: ModelConfig, lineage: Mapping[str, str]) -> str:
    """README.md of a model: its shape, and name → hash of what it was made from, down to the source files."""
    rows = "".join(f"| {name} | `{digest}` |\n" for name, digest in lineage.items())
    experts = f"{config.num_experts_per_tok} of {config.num_experts} experts for each token, " if config.num_experts else ""
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# {title}\n\n"
        f"A decoder-only transformer of the {ARCHITECTURES[config.architecture]} architecture made with crawl2chat: "
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} query and "
        f"{config.num_key_value_heads} key-value heads, {experts}vocabulary of {config.vocab_size}, sequences of up to "
        f"{config.max_position_embeddings} tokens.\n\n"
        "## Lineage\n\n| made from | sha256 |\n|---|---|\n" + rows
    )


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
