"""What `make gpu-proof` does where there is no GPU: it refuses in a line, plans, and runs the same proofs on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from benchmarks.gpu_kernels import model_differences, product_differences
from benchmarks.gpu_proof import KERNELS, PROOFS, Box, main
from trainer.model import attention


@pytest.mark.skipif(torch.cuda.device_count() >= 2, reason="there are GPUs")
def test_without_gpus_it_refuses_in_one_line_that_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("gpu-proof: needs 2 NVIDIA GPUs, there ") and "--plan" in shown.err


def test_the_plan_names_every_proof_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "2 NVIDIA GPUs" in lines[0] and len(lines) == len(PROOFS) + 2
    for line, proof in zip(lines[1:], PROOFS, strict=False):
        assert line.startswith(proof.name) and line.endswith(f"{proof.minutes:.0f} min")
    assert lines[-1].endswith(f"{sum(proof.minutes for proof in PROOFS):.0f} min")


def test_a_proof_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "everything"])
    assert "exactness" in capsys.readouterr().err


def test_documents_that_see_each_other_make_the_kernels_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(documents: Tensor) -> BlockMask:
        b, s = documents.shape
        return create_block_mask(lambda row, head, query, key: query >= key, b, None, s, s, device="cpu")

    box = Box("cpu", tmp_path)
    configs = box.small(), box.sparse()
    assert all(0 < model_differences(box, config)["losses"] < KERNELS["fp32"] / 100 for config in configs)
    monkeypatch.setattr(attention, "block_mask", causal)
    assert all(model_differences(box, config)["losses"] > 100 * KERNELS["fp32"] for config in configs)


def test_rows_that_go_to_the_expert_before_make_the_kernels_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, box = F.grouped_mm, Box("cpu", tmp_path)

    def shifted(x: Tensor, weight: Tensor, *, offs: Tensor, **rest: Any) -> Tensor:
        return kernel(x, weight, offs=(offs + 1).clamp(max=int(offs[-1])), **rest)

    assert max(product_differences(box).values()) < KERNELS["bf16"]
    monkeypatch.setattr(F, "grouped_mm", shifted)
    assert min(product_differences(box).values()) > KERNELS["bf16"]


@pytest.mark.proof
def test_on_the_cpu_every_line_holds() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_proof", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "every line holds"
    assert sum(line.endswith(" holds") for line in lines[:-1]) == 3 + 9 + 4 + 4 + 1 + 1
    assert not any("FAILS" in line for line in lines)
