"""What the kernel adds to a Ray task: time per shard beside plain tasks, and the driver's memory, by number of shards.

    python benchmarks/kernel_overhead.py [--shards 100 1000 10000]

Both sides run the same function (write a file of 100 bytes) on the same Ray, alternating, in one process.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.cluster import ClusterConfig, connect
from pipeline.lease import acquire
from pipeline.progress import Progress
from pipeline.shards import map_shards
from pipeline.stage import MapRun, Metrics, Shard, ShardResult, Stage, StageContext, Unit
from pipeline.trajectory import Trajectory


def write_shard(shard: Shard) -> ShardResult:
    """The work: a file of 100 bytes."""
    Path(shard.path("text", ".txt")).write_bytes(b"x" * 99 + shard.unit.name[-1].encode())
    return ShardResult(records={"text": 1})


def nothing(ctx: StageContext, params: MapRun) -> Metrics:
    return {}


STAGE = Stage("bench", 1, nothing, MapRun, MapRun)


def plain_tasks(folder: Path, number: int) -> float:
    """Seconds for the same files written by bare Ray tasks, as many in flight as the kernel has."""
    import ray

    def write(path: str) -> None:
        Path(path).write_bytes(b"x" * 100)

    remote = ray.remote(write)
    limit = max(2, 2 * int(ray.cluster_resources()["CPU"]))
    begun = time.perf_counter()
    running: list[Any] = []
    for index in range(number):
        if len(running) >= limit:
            _, running = ray.wait(running, num_returns=1)
        running.append(remote.remote(str(folder / str(index))))
    ray.get(running)
    return time.perf_counter() - begun


def kernel(folder: Path, number: int) -> float:
    """Seconds for `map_shards` over the same number of units: keys, fences, hashes, flushes and records included."""
    lease = acquire(folder / "artifact")
    ctx = StageContext(
        stage=STAGE,
        fingerprint="0" * 64,
        inputs={},
        sources=(),
        run=MapRun(),
        directory=str(folder / "own"),
        pool=folder / "pool",
        fence=lease.fence,
        trajectory=Trajectory(str(folder / "trajectory"), "0", lease.fence),
        progress=Progress(str(folder / "events.jsonl"), "bench"),
        connect=lambda: None,
    )
    units = [Unit(f"unit-{index:06d}", f"{index:064d}") for index in range(number)]
    begun = time.perf_counter()
    map_shards(ctx, write_shard, units, None, {})
    elapsed = time.perf_counter() - begun
    lease.release()
    return elapsed


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10_000])
    arguments = parser.parse_args()
    connect(ClusterConfig())
    base = Path(tempfile.mkdtemp(prefix="kernel-overhead-"))
    try:
        (base / "warm").mkdir()
        plain_tasks(base / "warm", 50)
        kernel(base / "warm-kernel", 50)
        print(f"{'shards':>8} {'plain ms':>10} {'kernel ms':>10} {'overhead ms':>12} {'driver MB':>10}")
        for number in arguments.shards:
            folder = base / str(number)
            folder.mkdir()
            (folder / "plain").mkdir()
            plain = plain_tasks(folder / "plain", number) / number * 1000
            ours = kernel(folder / "kernel", number) / number * 1000
            print(f"{number:>8} {plain:>10.2f} {ours:>10.2f} {ours - plain:>12.2f} {resident_mb():>10.1f}", flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
