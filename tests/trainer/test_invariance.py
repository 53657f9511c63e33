"""Loss and gradient of a step are those of its documents, whatever the ranks, the micro-batches and the rows they are cut into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.worlds import CUTS, alone, gradients, pretraining, segments_of, tiny
from trainer.tasks.task import Place

Found = tuple[float, dict[str, Tensor]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """In fp64, document by document, with the cross-entropy of whole logits and one backward pass: nothing of loop and engine."""
    model = tiny().double()
    task = pretraining(tmp_path_factory.mktemp("reference"), rows_per_step=7, validation_tokens=0)
    task.start(Place(0, 1, torch.device("cpu"), 7), model)
    segments = segments_of(task._read(task.sample_numbers(0)))
    assert len(segments) > 7 and sum(len(segment.targets) for segment in segments) == 7 * 24
    losses = []
    for segment in segments:
        hidden = model(torch.from_numpy(segment.inputs)[None])[0]
        losses.append(F.cross_entropy(F.linear(hidden, model.lm_head.weight), torch.from_numpy(segment.targets), reduction="sum"))
    loss = torch.stack(losses).sum() / (7 * 24)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_one_rank(tmp_path: Path, reference: Found) -> None:
    assert_equal(alone(gradients, tmp_path), reference)


def test_two_ranks(two_ranks: dict[str, Any], reference: Found) -> None:
    assert_equal(two_ranks["gradients"], reference)


def assert_equal(found: dict[str, Found], reference: Found) -> None:
    assert len(found) == len(CUTS)
    assert max(tensor.abs().max().item() for tensor in reference[1].values()) > 0.01
    for case, (loss, gradient) in found.items():
        assert loss == pytest.approx(reference[0], abs=1e-6, rel=0), case
        for name, tensor in reference[1].items():
            difference = (gradient[name] - tensor).abs().max().item()
            assert difference < 1e-6, f"{case}: the gradient of {name} differs by {difference}"
