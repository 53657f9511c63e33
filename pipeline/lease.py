"""One driver per artifact: leases with fencing epochs, and who may take one over.

`lease-<epoch>.json` is created exclusively and names its owner; `beat-<epoch>.json` counts while the owner lives. The
newest epoch holds the artifact. A lease is free when it was released, when its owner is a dead process of this host,
or when its counter has stood still for `LEASE_S` on the observer's own monotonic clock (a foreign or a frozen owner).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import storage
from pipeline.errors import UserError

LEASE_S = float(os.environ.get("CRAWL2CHAT_LEASE_S", "30"))


class LeaseLost(UserError):
    """Another driver holds this artifact now; whoever sees this stops without publishing."""


@dataclass(frozen=True)
class Owner:
    """A driver process, told apart from any other that ever ran. `place` is the kernel's boot and process namespace."""

    host: str
    place: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def dead(self) -> bool:
        """True only when it is known: a process of this place that has ended. Never True of another host's."""
        return self.place == _place() and _started(self.pid) != self.started


def this_process() -> Owner:
    return Owner(socket.gethostname(), _place(), os.getpid(), _started(os.getpid()))


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: the host name has to do
        return socket.gethostname()


def _started(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        try:  # no Linux: a process is known by being there
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "running"
    return "" if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Fence:
    """Picklable proof of a lease, checked before every rename that others could see."""

    directory: str
    epoch: int

    def check(self) -> None:
        """Raise LeaseLost once a newer epoch exists."""
        newest = newest_epoch(self.directory)
        if newest > self.epoch:
            owner = read_owner(self.directory, newest)
            raise LeaseLost(
                f"{self.directory}: taken over by {owner or 'another driver'} while this one stood still; "
                "this run stops here, nothing of it is published"
            )


def newest_epoch(directory: str | Path) -> int:
    """The highest lease epoch ever taken; 0 where there was none."""
    epochs = [int(name[6:-5]) for name in storage.names(directory) if name.startswith("lease-") and name.endswith(".json")]
    return max(epochs, default=0)


def read_owner(directory: str | Path, epoch: int) -> Owner | None:
    """Whose lease this is; None where its file is gone or damaged: then nobody can hold it."""
    with contextlib.suppress(ValueError, TypeError):
        return Owner(**json.loads(storage.read(Path(directory, f"lease-{epoch}.json")) or b"null"))
    return None


def holder(directory: str | Path) -> Owner | None:
    """Who holds the artifact, as far as one look can tell (a foreign owner that fell silent still counts)."""
    epoch = newest_epoch(directory)
    owner = read_owner(directory, epoch) if epoch else None
    return None if owner is None or owner.dead or _beat(directory, epoch) == "released" else owner


def living(directories: Sequence[Path]) -> list[Path]:
    """Those that are held, for sure: an owner that is not of this boot has to show a beat within the lease time."""
    held = {directory: (owner, _beat(directory, newest_epoch(directory))) for directory in directories if (owner := holder(directory))}
    if any(owner.place != _place() for owner, _ in held.values()):
        time.sleep(LEASE_S)
    return [
        directory
        for directory, (owner, beat) in held.items()
        if owner.place == _place() or _beat(directory, newest_epoch(directory)) not in (beat, "released")
    ]


def _beat(directory: str | Path, epoch: int) -> str:
    return (storage.read(Path(directory, f"beat-{epoch}.json")) or b"").decode()


class Lease:
    """A held lease; its counter moves until `release`."""

    def __init__(self, directory: Path, epoch: int) -> None:
        self.directory, self.epoch = directory, epoch
        self.fence = Fence(str(directory), epoch)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="lease")
        self._thread.start()

    def _beat_on(self) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            self._write(str(count))
            self._stop.wait(LEASE_S / 6)

    def _write(self, text: str) -> None:
        # No flush to disk, no crash point, and a full disk is no end: a lost beat only moves a takeover.
        temporary = self.directory / f".beat-{self.epoch}.tmp"
        with contextlib.suppress(OSError):
            temporary.write_text(text)
            os.replace(temporary, self.directory / f"beat-{self.epoch}.json")

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        self._write("released")


def acquire(directory: Path, waiting: Callable[[Owner], None] = lambda owner: None) -> Lease:
    """Take the artifact's lease, waiting for whoever holds it; `waiting` is told once per holder."""
    directory.mkdir(parents=True, exist_ok=True)
    seen: tuple[int, str] | None = None
    since = time.monotonic()
    told = 0
    while True:
        epoch = newest_epoch(directory)
        owner = read_owner(directory, epoch) if epoch else None
        beat = _beat(directory, epoch)
        if (epoch, beat) != seen:
            seen, since = (epoch, beat), time.monotonic()
        silent = time.monotonic() - since > LEASE_S
        if owner is None or owner.dead or beat == "released" or silent:
            claim = json.dumps(asdict(this_process()), sort_keys=True).encode()
            if storage.create(directory / f"lease-{epoch + 1}.json", claim):
                return Lease(directory, epoch + 1)
            continue
        if told != epoch:
            waiting(owner)
            told = epoch
        time.sleep(0.1)
