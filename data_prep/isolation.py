"""Apply a function to items in a child process that is killed when one item takes too long or too much memory.

A loop in C code cannot be interrupted from Python, and a library that crashes takes its process along. So the child sets itself
limits that the operating system enforces: a timer of CPU time whose signal ends the process, and a size of its address space. CPU
time is measured, not time on the wall: a busy or suspended machine kills nothing. When the child is gone, another serves the next
items, and of the batch that it left only the culprit is lost, with `Killed` in place of its result:

- out of CPU time, or ended by an error: the items one by one
- out of memory, killed as the kernel kills for memory, or crashed as code crashes that does not look whether it was given memory: the
  batch once more with double the memory, and if that is not enough halved until the culprit is alone. A child with double memory
  serves no other batch.

Libraries swallow failed allocations and go on with less than the whole page. So a child whose address space has passed half of its
limit counts as out of memory too: below that no allocation of a sane size can have failed.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Generic, Self, TypeVar, TypeVarTuple

Item = TypeVarTuple("Item")
Result = TypeVar("Result")


OUT_OF_TIME, OUT_OF_MEMORY, CRASHED = "out_of_time", "out_of_memory", "crashed"

_SEND_BUFFER = 1 << 20  # bytes; the system's own is so small that a batch of pages takes twice the time
_NO_MEMORY = errno.ENOMEM  # the status with which a child ends that is out of memory
_MEMORY_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
_PEAK = re.compile(rb"^VmPeak:\s*([0-9]+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Killed:
    """Stands for the result of an item that the child did not survive. `reason`: OUT_OF_TIME, OUT_OF_MEMORY or CRASHED."""

    reason: str
    detail: str


class Isolated(Generic[*Item, Result]):
    """`function`, a module's function, called in a child process that lives for many calls. To be used in `with`.

    cpu_s         CPU seconds one item may take
    memory_bytes  address space of the child; half of it may be used
    """

    def __init__(self, function: Callable[[*Item], Result], cpu_s: float, memory_bytes: int) -> None:
        self._command = [sys.executable, "-m", __name__, f"{function.__module__}:{function.__qualname__}", str(cpu_s)]
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def map(self, items: Sequence[tuple[*Item]]) -> list[Result | Killed]:
        """The results in order. Items are tuples of arguments; a batch of some 16 makes the way to the child and back cheap."""
        outcome, for_memory = self._attempt(items, self._memory_bytes)
        if isinstance(outcome, list):
            return outcome
        if for_memory:
            try:
                return self._bisected(items)
            finally:
                self._end()
        if len(items) == 1:
            return [outcome]
        return [result for item in items for result in self.map([item])]

    def _bisected(self, items: Sequence[tuple[*Item]]) -> list[Result | Killed]:
        """The results with double the memory, in the batch or in parts of it."""
        outcome, _ = self._attempt(items, 2 * self._memory_bytes)
        if isinstance(outcome, list):
            return outcome
        if len(items) == 1:
            return [outcome]
        middle = len(items) // 2
        return self._bisected(items[:middle]) + self._bisected(items[middle:])

    def _attempt(self, items: Sequence[tuple[*Item]], memory_bytes: int) -> tuple[list[Result | Killed] | Killed, bool]:
        """The results, or how the child ended, and whether that may have been for memory."""
        if self._connection is None:
            self._start(memory_bytes)
        assert self._connection is not None
        try:
            self._connection.send(items)
            return self._connection.recv(), False
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            return _verdict(self._end())

    def _start(self, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            command = [*self._command, str(memory_bytes), str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._connection = Connection(ours.detach())

    def _end(self) -> int:
        """Wait for the child to end; its status."""
        if self._process is None or self._connection is None:
            return 0
        self._connection.close()
        status = self._process.wait()
        self._process = self._connection = None
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()


def _verdict(status: int) -> tuple[Killed, bool]:
    if status == -signal.SIGPROF:
        return Killed(OUT_OF_TIME, "out of CPU time"), False
    if status == _NO_MEMORY:
        return Killed(OUT_OF_MEMORY, "out of memory"), True
    if status == -signal.SIGKILL:
        return Killed(OUT_OF_MEMORY, "killed by the system, as it does when memory runs out"), True
    if status < 0:
        return Killed(CRASHED, f"ended by {signal.Signals(-status).name}"), -status in _MEMORY_SIGNALS
    return Killed(CRASHED, f"ended with status {status}"), False


def _serve(name: str, cpu_s: float, memory_bytes: int, descriptor: int) -> None:
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    most = resource.getrlimit(resource.RLIMIT_AS)[1]  # what somebody else has allowed
    memory_bytes = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    connection = Connection(descriptor)
    while True:
        try:
            items = connection.recv()
        except EOFError:
            return
        results = []
        for item in items:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            results.append(function(*item))
        signal.setitimer(signal.ITIMER_PROF, 0)
        if _peak_bytes() > memory_bytes // 2:
            raise MemoryError
        connection.send(results)


def _peak_bytes() -> int:
    """The largest address space this process has had."""
    with open("/proc/self/status", "rb") as file:
        found = _PEAK.search(file.read())
    return int(found[1]) << 10 if found else 0


if __name__ == "__main__":
    try:
        _serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    except MemoryError:
        os._exit(_NO_MEMORY)  # a tidy end could need memory
