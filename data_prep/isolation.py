"""Apply a function to items in a child process that is killed when one item takes too long or too much memory.

A loop in C code cannot be interrupted from Python, and a library that crashes takes its process along. So the child sets itself
limits that the operating system enforces: a timer of CPU time whose signal ends the process, and a size of its address space.
The caller sees that the child is gone, gets `Killed` in place of that item's result, and another child serves the next items. CPU
time is measured, not time on the wall: a busy or suspended machine kills nothing.
"""

from __future__ import annotations

import importlib
import os
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


@dataclass(frozen=True, slots=True)
class Killed:
    """Stands for the result of an item that the child did not survive."""

    detail: str


class Isolated(Generic[*Item, Result]):
    """`function`, a module's function, called in a child process that lives for many calls. To be used in `with`.

    cpu_s         CPU seconds one item may take
    memory_bytes  address space of the child
    """

    def __init__(self, function: Callable[[*Item], Result], cpu_s: float, memory_bytes: int) -> None:
        self._command = [sys.executable, "-m", __name__, f"{function.__module__}:{function.__qualname__}", str(cpu_s), str(memory_bytes)]
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def map(self, items: Sequence[tuple[*Item]]) -> list[Result | Killed]:
        """The results in order. Items are tuples of arguments; a batch of some 16 makes the way to the child and back cheap."""
        if self._connection is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send(items)
            results: list[Result | Killed] = self._connection.recv()
            return results
        except (EOFError, ConnectionError):
            killed = Killed(self._end())
        if len(items) == 1:
            return [killed]
        return [result for item in items for result in self.map([item])]  # one by one: only the culprit is lost

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = subprocess.Popen([*self._command, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment)
        self._connection = Connection(ours.detach())

    def _end(self) -> str:
        """Wait for the child to end and say how it did."""
        if self._process is None or self._connection is None:
            return ""
        self._connection.close()
        status = self._process.wait()
        self._process = self._connection = None
        if status == -signal.SIGPROF:
            return "out of CPU time"
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()


def _serve(name: str, cpu_s: float, memory_bytes: int, descriptor: int) -> None:
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
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
        connection.send(results)


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
