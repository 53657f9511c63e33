"""Progress events: appended to the run's events.jsonl by any process, shown on the console by the driver."""

from __future__ import annotations


class Progress:
    """Picklable; call it with how much is done."""

    def __call__(self, done: int, total: int, **numbers: float) -> None: ...
