"""Peak memory of training steps at a vocabulary of 128k: with the logits made in chunks and all at once.

    python -m benchmarks.loss_memory [tokens]

Each row is a process of its own that takes two steps with AdamW. Memory is the most that the process had of its own (not of files,
which the kernel takes back as it likes, nor what the allocator keeps of what was freed), looked at every two milliseconds, over what
it had before it made the model. What logits take is measured against the same step with the loss of a single token. Prints one table;
ends with 1 where logits in chunks take 5 % of the peak or more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.model.config import ModelConfig

VOCABULARY, WIDTH, LAYERS, LENGTH = 128_256, 512, 4, 256
KINDS = {"one": "of one token", "chunked": "in chunks", "full": "all at once"}
LIMIT = 0.05
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576"}  # bytes: what is larger glibc gives back once it is freed


def held() -> float:
    """MiB of memory that this process has of its own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


class Peak(threading.Thread):
    """The most that is held while the block runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = held(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, held())

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def measure(kind: str, tokens: int) -> tuple[float, float]:
    """Peak MiB and seconds of two steps on `tokens` tokens."""
    import torch

    from trainer.model.config import ModelConfig

    config = ModelConfig(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=8, architecture="llama").resolved(VOCABULARY)
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)  # what it imports
    before, begun = held(), time.monotonic()
    with Peak() as peak:
        two_steps(config, kind, tokens)
    return peak.most - before, time.monotonic() - begun


def two_steps(config: ModelConfig, kind: str, tokens: int) -> None:
    """Train a new model on random tokens."""
    import torch
    import torch.nn.functional as F

    from trainer.model.transformer import Transformer

    model = Transformer(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, VOCABULARY, (tokens // LENGTH, LENGTH), generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        hidden = model(ids).flatten(0, 1)
        if kind == "full":
            loss = F.cross_entropy(model.logits(hidden), ids.flatten())
        elif kind == "chunked":
            loss = -model.log_probs(hidden, ids.flatten()).mean()
        else:
            loss = -model.log_probs(hidden[:1], ids.flatten()[:1]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(tokens: int) -> int:
    found = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.loss_memory", str(tokens), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **GIVEN_BACK})
        peak, seconds = map(float, done.stdout.split())
        found[kind] = peak, seconds
    least = found["one"][0]
    print(f"vocabulary {VOCABULARY:,}, width {WIDTH}, {LAYERS} layers, {tokens:,} tokens a step, fp32, AdamW\n")
    print(f"{'logits':12} {'peak MiB':>9} {'of it logits':>13} {'share':>7} {'seconds':>8}")
    for kind, (peak, seconds) in found.items():
        print(f"{KINDS[kind]:12} {peak:9,.0f} {peak - least:13,.0f} {(peak - least) / peak:7.1%} {seconds:8.1f}")
    return int((found["chunked"][0] - least) / found["chunked"][0] >= LIMIT)


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    if len(sys.argv) > 2:
        print(*measure(sys.argv[2], size))
    else:
        sys.exit(main(size))
