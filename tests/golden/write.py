"""Write the stored loss curves anew, which is right only after a change that is meant to alter a training:

    python -m tests.golden.write

The training is `golden_curves` of tests/trainer/worlds.py on one rank; tests/trainer/test_golden.py compares.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from tests.trainer.worlds import alone, golden_curves

CURVES = Path(__file__).with_name("curves.json")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        curves = alone(golden_curves, Path(folder))
    versions = {package: version(package) for package in ("torch", "deepspeed", "numpy")}
    CURVES.write_text(json.dumps({"versions": versions, "losses": curves}, indent=1) + "\n", encoding="utf-8")
    print(f"{CURVES}: " + ", ".join(f"{name} from {losses[0]:.4f} to {losses[-1]:.4f}" for name, losses in curves.items()))


if __name__ == "__main__":
    main()
