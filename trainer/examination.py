"""The evaluation of one model as a shard: everything that is measured of it, out of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import File, Shard, ShardResult, UserError

if TYPE_CHECKING:
    from trainer.model.transformer import Transformer


def examine_shard(shard: Shard) -> ShardResult:
    """Write `reports/<model>.json`. The unit's paths are the files of a Hugging Face directory."""
    import torch

    from data_prep.tokenizer import Tokenizer
    from trainer.data.chat import ChatFormat
    from trainer.data.preferences import Preference
    from trainer.data.prompts import Prompt
    from trainer.data.records import read_records
    from trainer.evaluation import Examiner
    from trainer.model.hf import load_for_inference
    from trainer.rollout.verifiers import exact_answer

    torch.set_num_threads(1)
    params = shard.params
    directory = next(Path(path).parent for path in shard.unit.paths if Path(path).name == "config.json")
    model = load_for_inference(directory)
    tokenizer = Tokenizer.load(directory)
    report: dict[str, Any] = {"bits_per_byte": round(bits_per_byte(model, tokenizer.eos_id, shard), 6)}

    examiner = Examiner(model, tokenizer, ChatFormat(tokenizer), params.seed, params.max_new_tokens)
    paths = [file.path for file in side_files(shard, "prompts/")]
    if not paths:
        raise UserError("evaluate: no file of held-out prompts; give source.test_prompts, or a prompt file with 'test' in its name")
    rows = read_records(paths, ["id", "prompt", "answer"])[: params.max_prompts]
    prompts = [Prompt.from_row(row, f"{paths[0]}, row {number}") for number, row in enumerate(rows, start=1)]
    report["greedy"] = examiner.accuracy(prompts, 0.0, exact_answer).plain()
    report["sampled"] = examiner.accuracy(prompts, params.temperature, exact_answer).plain()
    if paths := [file.path for file in side_files(shard, "preferences/")]:
        rows = read_records(paths, ["id", "prompt", "chosen", "rejected"])[: params.max_preferences]
        preferences = [Preference.from_row(row, f"{paths[0]}, row {number}") for number, row in enumerate(rows, start=1)]
        style, _ = examiner.style_and_facts(preferences, params.temperature)
        _, facts = examiner.style_and_facts(preferences, 0.0)
        report |= {"facts": facts.plain(), "style": style.plain()}
    Path(shard.path("reports", ".json")).write_text(json.dumps(report), encoding="utf-8")
    return ShardResult(records={"reports": 1})


def side_files(shard: Shard, prefix: str) -> tuple[File, ...]:
    """The side inputs whose name begins so, in order of their names."""
    return tuple(file for name, file in sorted(shard.side.items()) if name.startswith(prefix))


def bits_per_byte(model: Transformer, end_id: int, shard: Shard) -> float:
    """Over the held-out documents of the side inputs `corpus/validation/…`, whose tables are `corpus/index/…`."""
    import torch

    from trainer.data.corpus import Corpus
    from trainer.loop import Place
    from trainer.tasks.language_model import Pretraining

    corpus = Corpus("corpus", (), side_files(shard, "corpus/validation/"), side_files(shard, "corpus/index/"))
    task = Pretraining(
        corpora=(corpus,),
        end_id=end_id,
        sequence_length=shard.params.sequence_length,
        rows_per_step=1,
        validation_tokens=shard.params.validation_tokens,
        seed=shard.params.seed,
    )
    task.start(Place(0, 1, model.lm_head.weight.device, 16), model)
    bits = text_bytes = 0.0
    with torch.inference_mode():
        for batch in task.validation_batches():
            bits += float(task.terms(model, batch)["bits_per_byte"].numerator)
            text_bytes += task.counts(batch)["bytes"]
    return bits / text_bytes
