"""Drive the real command line in processes of their own, and look at what it left in the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600
COMMANDS = {"run", "plan", "why", "status", "ls", "verify", "gc", "chat", "explain"}


@dataclass(frozen=True)
class Toy:
    """The toy recipe over a folder of texts, on a Ray head that is there already."""

    folder: Path
    head: str | None = None
    recipe: str = "toy"
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def write(self, **texts: str) -> None:
        (self.folder / "in").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (self.folder / "in" / f"{name}.txt").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        first, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("run", arguments)
        fixed = [f"recipe={self.recipe}", "hydra.searchpath=[pkg://tests.toy.conf]", f"root={self.root}"]
        fixed.append(f"source.pages=[{self.folder}/in/*.txt]")
        if self.head:
            fixed += ["cluster=existing", f"cluster.address={self.head}"]
        return [sys.executable, "-m", "pipeline", first, *fixed, *rest]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        merged = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **environment}
        process = subprocess.Popen(
            self.command(*arguments), env=merged, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, expect: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # it and its Ray would slow all tests after this one
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{self.command(*arguments)}\nstill running after {LIMIT_S} s\n{out}\n{err}") from None
        if expect is not None:
            assert process.returncode == expect, f"{self.command(*arguments)}\nexit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def rows(self, command: str, *arguments: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.run(command, "format=json", *arguments).stdout)
        return {row["stage"]: row for row in found}

    def states(self, *arguments: str) -> dict[str, str]:
        return {stage: row["state"] for stage, row in self.rows("status", *arguments).items()}

    def manifest(self, stage: str, *arguments: str) -> dict[str, Any]:
        row = self.rows("status", *arguments)[stage]
        loaded: dict[str, Any] = json.loads(Path(row["path"], "manifest.json").read_text())
        return loaded

    def published(self, *arguments: str) -> dict[str, list[tuple[str, str]]]:
        """(name, sha256) of every published file by stage that is done, re-hashed from the bytes on disk."""
        found = {}
        for stage, row in self.rows("status", *arguments).items():
            if row["state"] != "DONE":
                continue
            manifest = json.loads(Path(row["path"], "manifest.json").read_text())
            found[stage] = [
                (entry["name"], hashlib.sha256((self.root / entry["path"]).read_bytes()).hexdigest()) for entry in manifest["files"]
            ]
        return found


def progress_events(toy: Toy) -> int:
    """How many progress events the run has written so far."""
    path = toy.root / "runs" / toy.recipe / "events.jsonl"
    if not path.exists():
        return 0
    return sum(1 for line in path.read_text().splitlines() if json.loads(line)["event"] == "progress")


def killed_after(toy: Toy, number: int, *arguments: str) -> bool:
    """Run and SIGKILL after `number` more progress events; False where it ended before."""
    target = progress_events(toy) + number
    process = toy.start(*arguments)
    while process.poll() is None and progress_events(toy) < target:
        time.sleep(0.02)
    if process.poll() is not None:
        assert process.returncode == 0, process.communicate()[1]
        process.communicate()
        return False
    process.kill()
    process.communicate()
    return True


def run_with_kills(toy: Toy, kills: int, seed: int, *arguments: str) -> int:
    """Kill the run up to `kills` times after a drawn number of progress events, then let it end; the kills it took."""
    draw = random.Random(seed)
    taken = 0
    while taken < kills and killed_after(toy, draw.randint(1, 6), *arguments):
        taken += 1
    toy.run(*arguments)
    return taken
