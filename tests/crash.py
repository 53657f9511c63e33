"""A store observer that ends the driver (and the process it is called in) at the k-th store operation of a run.

Set by the environment: CRAWL2CHAT_STORE_OBSERVER=tests.crash:observe, CRAWL2CHAT_CRASH_COUNTER=<file>,
CRAWL2CHAT_CRASH_AT=<k>, CRAWL2CHAT_CRASH_DRIVER=<file that holds the driver's process id>; and, to count only some,
CRAWL2CHAT_CRASH_UNDER=<part of a path>.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path


def observe(operation: str, path: str) -> None:
    """Count this operation across all processes of the run; at the k-th, SIGKILL the driver and this process."""
    if os.environ.get("CRAWL2CHAT_CRASH_UNDER", "") not in path:
        return
    with open(os.environ["CRAWL2CHAT_CRASH_COUNTER"], "ab") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.write(f"{operation} {path}\n".encode())
        counter.flush()
        counter.seek(0)
        with open(counter.name, "rb") as reader:
            number = sum(1 for _ in reader)
        if number == int(os.environ["CRAWL2CHAT_CRASH_AT"]):
            driver = int(Path(os.environ["CRAWL2CHAT_CRASH_DRIVER"]).read_text())
            if driver != os.getpid():
                os.kill(driver, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
