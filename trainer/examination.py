"""The evaluation of one model as a shard: everything that is measured of it, out of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import File, Shard, ShardResult, UserError

if TYPE_CHECKING:
    from data_prep.tokenizer import Tokenizer
    from trainer.model.transformer import Transformer

ROWS = 16  # of sequence_length tokens, read at once


def examine_shard(shard: Shard) -> ShardResult:
    """Write `reports/<model>.json`. The unit's paths are the files of a Hugging Face directory."""
    import torch

    from data_prep.tokenizer import Tokenizer
    from trainer.model.hf import load_for_inference

    if not any(name.startswith(("prompts/", "preferences/", "questions/")) for name in shard.side):
        raise UserError(
            "evaluate: no held-out prompts and no questions; give source.test_prompts, a prompt file with 'test' in its name, "
            "or source.questions"
        )
    torch.set_num_threads(1)
    directory = next(Path(path).parent for path in shard.unit.paths if Path(path).name == "config.json")
    model = load_for_inference(directory)
    tokenizer = Tokenizer.load(directory)
    report: dict[str, Any] = {"bits_per_byte": round(bits_per_byte(model, tokenizer.eos_id, shard), 6)}
    report |= chat_report(model, tokenizer, shard)
    if asked := question_reports(model, tokenizer, shard):
        report["questions"] = asked
    Path(shard.path("reports", ".json")).write_text(json.dumps(report), encoding="utf-8")
    return ShardResult(records={"reports": 1})


def side_files(shard: Shard, prefix: str) -> tuple[File, ...]:
    """The side inputs whose name begins so, in order of their names."""
    return tuple(file for name, file in sorted(shard.side.items()) if name.startswith(prefix))


def chat_report(model: Transformer, tokenizer: Tokenizer, shard: Shard) -> dict[str, Any]:
    """What the model says to the prompts of the side inputs `prompts/…` and `preferences/…`; empty where there are none."""
    from trainer.data.chat import ChatFormat
    from trainer.data.preferences import Preference
    from trainer.data.prompts import Prompt
    from trainer.data.records import read_records
    from trainer.evaluation import Examiner
    from trainer.rollout.verifiers import exact_answer

    params = shard.params
    prompt_paths, preference_paths = ([file.path for file in side_files(shard, prefix)] for prefix in ("prompts/", "preferences/"))
    if not prompt_paths and not preference_paths:
        return {}
    report: dict[str, Any] = {}
    examiner = Examiner(model, tokenizer, ChatFormat(tokenizer), params.seed, params.max_new_tokens)
    if prompt_paths:
        rows = read_records(prompt_paths, ["id", "prompt", "answer"])[: params.max_prompts]
        prompts = [Prompt.from_row(row, f"{prompt_paths[0]}, row {number}") for number, row in enumerate(rows, start=1)]
        report["greedy"] = examiner.accuracy(prompts, 0.0, exact_answer).plain()
        report["sampled"] = examiner.accuracy(prompts, params.temperature, exact_answer).plain()
    if preference_paths:
        rows = read_records(preference_paths, ["id", "prompt", "chosen", "rejected"])[: params.max_preferences]
        preferences = [Preference.from_row(row, f"{preference_paths[0]}, row {number}") for number, row in enumerate(rows, start=1)]
        style, _ = examiner.style_and_facts(preferences, params.temperature)
        _, facts = examiner.style_and_facts(preferences, 0.0)
        report |= {"facts": facts.plain(), "style": style.plain()}
    return report


def question_reports(model: Transformer, tokenizer: Tokenizer, shard: Shard) -> dict[str, Any]:
    """By set: how the questions of the side inputs `questions/…` are answered."""
    from trainer.data.questions import load_questions
    from trainer.evaluation import set_report
    from trainer.multiple_choice import answer, encode_questions

    params, reports = shard.params, {}
    for name, questions in load_questions(side_files(shard, "questions/"), params.max_questions, params.seed).items():
        encoded = encode_questions(tokenizer, questions, model.config.max_position_embeddings)
        reports[name] = set_report(encoded, answer(model, encoded, ROWS * params.sequence_length))
    return reports


def bits_per_byte(model: Transformer, end_id: int, shard: Shard) -> float:
    """Over the held-out documents of the side inputs `corpus/validation/…`, whose tables are `corpus/index/…`."""
    import torch

    from trainer.data.corpus import Corpus
    from trainer.tasks.language_model import Pretraining
    from trainer.tasks.task import Place

    corpus = Corpus("corpus", (), side_files(shard, "corpus/validation/"), side_files(shard, "corpus/index/"))
    task = Pretraining(
        corpora=(corpus,),
        end_id=end_id,
        sequence_length=shard.params.sequence_length,
        rows_per_step=1,
        validation_tokens=shard.params.validation_tokens,
        seed=shard.params.seed,
    )
    task.start(Place(0, 1, model.lm_head.weight.device, ROWS), model)
    bits = text_bytes = 0.0
    with torch.inference_mode():
        for batch in task.validation_batches():
            bits += float(task.terms(model, batch)["bits_per_byte"].numerator)
            text_bytes += task.counts(batch)["bytes"]
    if not text_bytes:
        raise UserError("needs.corpus: has no held-out document to measure bits per byte on; raise its validation_fraction")
    return bits / text_bytes
