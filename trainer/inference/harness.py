"""A model directory as a model of lm-evaluation-harness, named `crawl2chat` (`pip install crawl2chat[lm-eval]`).

    python -m trainer.inference.harness run --model crawl2chat --model_args pretrained=<model directory> --tasks <task>

is that project's own command line, all of whose arguments hold; with `--include_path <folder>` tasks come from files. Texts are encoded
and scored as by `trainer.multiple_choice`, so accuracies agree with those of the `evaluate` stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from data_prep.tokenizer import Tokenizer
from trainer.inference.generator import generate
from trainer.inference.sampling import Sampling, derive_seed
from trainer.model.hf import load_for_inference
from trainer.multiple_choice import Continuation, EncodedQuestion, continuations, question_batches, scores

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

LOGITS_OF = 256  # positions whose logits are held at once
DEFAULT_NEW_TOKENS = 256  # where a task says nothing: as the harness itself


@register_model("crawl2chat")
class HarnessModel(LM):  # type: ignore[misc]
    """Log-probabilities and texts of one model.

    pretrained      its Hugging Face directory
    batch_size      rows of at most the model's context that are read at once
    max_length      tokens a text may have; the model's context by default
    device          the GPU this process sees by default, else the CPU
    max_batch_size  is not used: no batch size is searched for
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 8,
        max_length: int | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = load_for_inference(pretrained)
        # the harness names a GPU where its user named nothing
        if device is not None and (torch.cuda.is_available() or not device.startswith("cuda")):
            self.model = self.model.to(device)
        self.tokenizer = Tokenizer.load(pretrained)
        self.max_length = int(max_length or self.model.config.max_position_embeddings)
        self.tokens = int(batch_size) * self.max_length
        self._device = self.model.lm_head.weight.device

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) the continuation's log-probability and whether greedy decoding gives it."""
        return self._score(continuations(self.tokenizer, [request.args for request in requests], self.max_length))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text. Every token is predicted once; the last window of a long text reads as far back as
        the others."""
        texts = self.tokenizer.encode_batch([request.args[0] for request in requests])
        windows = [self._windows(ids) for ids in texts]
        found = iter(self._score([window for part in windows for window in part]))
        return [sum(next(found)[0] for _ in part) for part in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model says after each context, up to the first of the texts that end it. Greedy unless `do_sample` is set."""
        answers: dict[int, str] = {}
        settings = [request.args[1] for request in requests]
        for group in _alike(settings):
            given = settings[group[0]]
            new_tokens = min(int(given.get("max_gen_toks", DEFAULT_NEW_TOKENS)), self.max_length // 2)
            contexts = self.tokenizer.encode_batch([requests[number].args[0] for number in group])
            completions = generate(
                self.model,
                [[self.tokenizer.eos_id, *ids][-(self.max_length - new_tokens) :] for ids in contexts],
                [derive_seed("harness", number) for number in group],
                stop_ids=(self.tokenizer.eos_id,),
                max_new_tokens=new_tokens,
                sampling=_sampling(given),
            )
            for number, completion in zip(group, completions, strict=True):
                answers[number] = _until(self.tokenizer.decode(completion.text_ids()), given.get("until") or ())
        return [answers[number] for number in range(len(requests))]

    def _score(self, asked: Sequence[Continuation]) -> list[tuple[float, bool]]:
        questions = [EncodedQuestion((one,)) for one in asked]
        found: dict[int, tuple[float, bool]] = {}
        with torch.inference_mode():
            for batch in question_batches(questions, self.tokens, self._device):
                found.update(zip(batch.numbers, zip(*scores(self.model, batch, LOGITS_OF), strict=True), strict=True))
        return [found[number] for number in range(len(asked))]

    def _windows(self, targets: Sequence[int]) -> list[Continuation]:
        ids = [self.tokenizer.eos_id, *targets]
        spans = [(at, min(at + self.max_length, len(targets))) for at in range(0, len(targets), self.max_length)]
        return [Continuation(tuple(ids[max(0, end - self.max_length) : end]), tuple(targets[at:end])) for at, end in spans]


def _alike(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Numbers of the requests that share their settings."""
    groups: dict[str, list[int]] = {}
    for number, given in enumerate(settings):
        groups.setdefault(repr(sorted(given.items())), []).append(number)
    return list(groups.values())


def _sampling(given: Mapping[str, Any]) -> Sampling:
    if not given.get("do_sample", False):
        return Sampling(0.0)
    return Sampling(float(given.get("temperature", 1.0)), float(given.get("top_p", 1.0)))


def _until(text: str, ends: str | Sequence[str]) -> str:
    """The text before the first of the texts that end it."""
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.split(end)[0] if end else text
    return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
