"""Progress: events appended to the run's events.jsonl by any process, and shown on the console by the driver."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LINE_EVERY_S = 5.0
POLL_S = 0.2


@dataclass(frozen=True)
class Progress:
    """Picklable; `progress(done, total, loss=…)` appends one event. Works from any process that sees the file."""

    path: str
    stage: str

    def __call__(self, done: int, total: int, **numbers: float) -> None:
        self.event("progress", done=done, total=total, **numbers)

    def event(self, kind: str, **facts: Any) -> None:
        """Append an event as one write, so that lines of several processes never mix."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, "stage": self.stage, **facts}) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class Console:
    """Shows the events of a run as they come: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, events: Path) -> None:
        self.events = events
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="console")
        self._show = _Bars() if sys.stderr.isatty() else _Lines()

    def __enter__(self) -> Console:
        self.events.touch()
        self._position = self.events.stat().st_size
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._show.close()

    def _follow(self) -> None:
        with open(self.events, encoding="utf-8") as stream:
            stream.seek(self._position)
            while True:
                last_look = self._stop.is_set()
                for event in _complete_lines(stream):
                    self._show.event(event)
                if last_look:
                    return
                self._stop.wait(POLL_S)


def _complete_lines(stream: Any) -> Iterator[dict[str, Any]]:
    while True:
        position = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(position)
            return
        event = parsed(line)
        if event is not None:
            yield event


def parsed(line: str | bytes) -> dict[str, Any] | None:
    """The event of one line; None for a line that a full disk cut."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"event", "stage"} <= event.keys() else None


def describe(event: dict[str, Any]) -> str:
    """An event in words, without its stage's name."""
    match event["event"]:
        case "start":
            return f"started: {event['why']}"
        case "done":
            return f"done in {event['elapsed_s']:.1f} s{_numbers(event.get('summary', {}))}"
        case "reused":
            return "up to date"
        case "progress":
            known = {"time", "event", "stage", "done", "total"}
            return f"{event['done']:,} of {event['total']:,}{_numbers({k: v for k, v in event.items() if k not in known})}"
        case _:
            return str(event.get("text", event["event"]))


def _numbers(values: dict[str, Any]) -> str:
    return "".join(f", {name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


class _Lines:
    """Plain lines: every event but progress, and progress at most every few seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            if time.monotonic() - self._last < LINE_EVERY_S:
                return
            self._last = time.monotonic()
        print(f"{event['stage']:<13} {describe(event)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Bars:
    """A bar for the running stage with rate and time left; finished stages stay above as lines."""

    def __init__(self) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        class Rate(ProgressColumn):
            """Shards or steps a second."""

            def render(self, task: Task) -> Text:
                return Text(f"{task.completed / task.elapsed:,.3g}/s" if task.elapsed and task.completed else "")

        self._bars = Bars(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Terminal(stderr=True),
            transient=True,
        )
        self._bars.start()
        self._task: Any = None

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self._task = self._bars.add_task(event["stage"], total=None, numbers="")
        elif event["event"] == "progress" and self._task is not None:
            self._bars.update(self._task, completed=event["done"], total=event["total"], numbers=describe(event).partition(", ")[2])
        else:
            if event["event"] in ("done", "failed") and self._task is not None:
                self._bars.remove_task(self._task)
                self._task = None
            self._bars.console.print(f"{event['stage']:<13} {describe(event)}", highlight=False, markup=False)

    def close(self) -> None:
        self._bars.stop()
