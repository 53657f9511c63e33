"""Data preparation by workers and by size: seconds with one and two workers, seconds and memory with one and ten times the input.

    python -m benchmarks.scaling [--data ../shared/data/web] [--times 10]

Both run the command line, `recipe=web` from WARC files to `near_dedup`, in a store of their own. Workers: one file for each of the pages'
files, every page three times in it; one worker is held to one core, as it would have on a busy node. Size: all pages in one
file that is not divided, so one worker reads all of it in each stage; then that file `--times` over. Seconds are the stages' own.
Memory is the largest resident set that a worker and the process it extracts in had together.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STAGES = ("ingest", "score", "select", "dedup_url", "dedup", "near_dedup")
SAMPLED_EVERY_S = 0.1


@dataclass(frozen=True)
class Run:
    """Seconds by stage and the largest resident memory of a worker by stage that it worked for, MB."""

    seconds: Mapping[str, float]
    memory: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/web"))
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    pages = sorted(arguments.data.glob("pages-*.warc.gz"))
    with tempfile.TemporaryDirectory() as folder:
        by_workers(pages, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        by_size(pages, Path(folder), arguments.times)


def by_workers(pages: Sequence[Path], folder: Path) -> None:
    """Print seconds by stage with one and with two workers."""
    for path in pages:
        (folder / path.name).write_bytes(path.read_bytes() * 3)
    runs = {workers: run(folder, folder / f"out-{workers}", workers) for workers in (1, 2)}
    print(f"{'':<12}{'1 worker':>10}{'2 workers':>10}{'ratio':>8}")
    for stage in (*STAGES, "all"):
        one, two = (total(runs[workers].seconds, stage) for workers in (1, 2))
        print(f"{stage:<12}{one:>8.1f} s{two:>8.1f} s{one / two:>8.2f}")


def by_size(pages: Sequence[Path], folder: Path, times: int) -> None:
    """Print seconds and memory by stage for the pages once and `times` over."""
    content = b"".join(path.read_bytes() for path in pages)
    runs = {}
    for number in (1, times):
        (folder / "pages.warc.gz").write_bytes(content * number)
        runs[number] = run(folder, folder / f"out-{number}", 1)
    print(f"\n{'':<12}{'1 x':>10}{f'{times} x':>10}{'ratio':>8}{'1 x':>12}{f'{times} x':>12}{'ratio':>8}")
    for stage in (*STAGES, "all"):
        one, more = (total(runs[number].seconds, stage) for number in (1, times))
        small, large = (largest(runs[number].memory, stage) for number in (1, times))
        print(f"{stage:<12}{one:>8.1f} s{more:>8.1f} s{more / one:>8.2f}{small:>9.0f} MB{large:>9.0f} MB{large / small:>8.2f}")


def total(seconds: Mapping[str, float], stage: str) -> float:
    return sum(seconds.values()) if stage == "all" else seconds[stage]


def largest(memory: Mapping[str, float], stage: str) -> float:
    return max(memory.values()) if stage == "all" else memory.get(stage, math.nan)  # over before it could be sampled


def run(pages: Path, root: Path, workers: int) -> Run:
    """Run the stages over the WARC files of a folder, on as many cores as workers."""
    command = [sys.executable, "-m", "pipeline", "recipe=web", f"source.pages=[{pages}/*.warc.gz]", f"root={root}", "target=near_dedup"]
    command += [f"cluster.cpus={workers}", "ingest.split_bytes=0"]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, range(workers))
    )
    memory: dict[str, float] = {}
    done = threading.Event()
    sampler = threading.Thread(target=sample, args=(process.pid, memory, done))
    sampler.start()
    code = process.wait()
    done.set()
    sampler.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    manifests = {stage: json.loads((root / "runs" / "web" / "stages" / stage / "manifest.json").read_text()) for stage in STAGES}
    return Run({stage: manifest["elapsed_s"] for stage, manifest in manifests.items()}, memory)


def sample(driver: int, memory: dict[str, float], done: threading.Event) -> None:
    """Keep the largest resident memory of a worker with its children, by the stage whose task it runs."""
    while not done.wait(SAMPLED_EVERY_S):
        for process in children(driver):
            stage = title(process).removeprefix("ray::")
            if stage in STAGES:
                size = sum(resident(one) for one in (process, *children(process.pid))) / 1e6
                memory[stage] = max(size, memory.get(stage, 0.0))


def children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.Error:
        return ""


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
