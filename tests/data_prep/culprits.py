"""Functions that take too much in one way or another, for the tests of running them apart; the child imports this module alone."""

import ctypes
import os
import resource
import signal
import struct
import sys

MB = 1 << 20
LIMIT = 256 * MB  # of the address space, of which a Python process takes some 40 MB


def hold(number: int, megabytes: int) -> int:
    """Take so much memory for a moment."""
    return number if bytearray(megabytes * MB) else -1


def hoard(number: int, megabytes: int) -> int:
    """Take so much and never give it back."""
    _HOARD.append(bytearray(megabytes * MB))
    return number


_HOARD: list[bytearray] = []


def hold_in_secret(number: int, megabytes: int) -> int:
    """Like the libraries that go on without the memory they were refused."""
    try:
        return number if [bytearray(16 * MB) for _ in range(megabytes // 16)] else -1
    except MemoryError:
        return -number


def note_limit(number: int, log: str, kill: int) -> int:
    """Note the memory there is, and end as the kernel ends a process for memory if there is less than `kill` times the limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    with open(log, "a") as file:
        file.write(f"{number} {os.getpid()} {limit // LIMIT}\n")
    if limit < kill * LIMIT:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def end(number: int, how: int) -> int:
    if how > 0:
        signal.signal(how, signal.SIG_DFL)
        os.kill(os.getpid(), how)
    return number


def crash(number: int, bad: bool) -> int:
    """As C code crashes that does not look at what malloc gave it."""
    if bad:
        ctypes.string_at(0)
    return number


def break_off(number: int, bad: bool) -> int:
    """End in the middle of the message with the results."""
    if bad:
        os.write(int(sys.argv[-1]), struct.pack("!i", 1000) + b"the first of them")
        os._exit(1)
    return number
