"""A function in a child process: what it may take of time and memory, and who is lost when it takes more."""

import signal
from pathlib import Path

import pytest
from culprits import LIMIT, break_off, crash, end, hoard, hold, hold_in_secret, note_limit

from data_prep.isolation import CRASHED, OUT_OF_MEMORY, OUT_OF_TIME, Isolated, Killed


def test_a_batch_for_which_double_memory_is_enough_loses_nothing() -> None:
    with Isolated(hold, 5, LIMIT) as isolated:
        assert isolated.map([(number, 150) for number in range(5)]) == list(range(5))
        assert isolated.map([(number, 1) for number in range(5)]) == list(range(5))


@pytest.mark.parametrize("culprits", [(0,), (7,), (3, 4)])
def test_only_pages_that_are_too_much_alone_are_out_of_memory(culprits: tuple[int, ...]) -> None:
    expected = [Killed(OUT_OF_MEMORY, "out of memory") if number in culprits else number for number in range(8)]
    with Isolated(hold, 5, LIMIT) as isolated:
        assert isolated.map([(number, 2_000 if number in culprits else 1) for number in range(8)]) == expected


def test_pages_that_are_too_much_together_only_are_all_served() -> None:
    with Isolated(hoard, 5, LIMIT) as isolated:
        assert isolated.map([(number, 60) for number in range(8)]) == list(range(8))


def test_a_swallowed_failure_to_get_memory_is_noticed_where_it_could_change_a_result() -> None:
    with Isolated(hold_in_secret, 5, LIMIT) as isolated:
        assert isolated.map([(1, 16), (2, 112), (3, 160)]) == [1, 2, 3]
        assert isolated.map([(1, 16), (2, 800), (3, 16)]) == [1, Killed(OUT_OF_MEMORY, "out of memory"), 3]


@pytest.mark.parametrize(("kill", "limits"), [(1, [1, 1, 1, 1]), (2, [1, 2, 2, 2, 2])])
def test_a_kill_is_followed_by_one_try_with_double_memory_which_serves_no_other_batch(tmp_path: Path, kill: int, limits: list[int]) -> None:
    log = tmp_path / "log"
    with Isolated(note_limit, 5, LIMIT) as isolated:
        assert isolated.map([(number, str(log), kill) for number in range(4)]) == list(range(4))
        lines = [line.split() for line in log.read_text().splitlines()]
        assert [int(limit) for _, _, limit in lines] == limits
        isolated.map([(9, str(log), 1)])
        *_, last = log.read_text().split("\n")[:-1]
        assert last.endswith(" 1") and (last.split()[1] == lines[-1][1]) == (kill == 1)


def test_what_is_killed_every_time_is_found_by_halving(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Isolated(note_limit, 5, LIMIT) as isolated:
        *others, killed = isolated.map([(number, str(log), 3 if number == 7 else 1) for number in range(8)])
    assert others == list(range(7))
    assert killed == Killed(OUT_OF_MEMORY, "killed by the system, as it does when memory runs out")
    tries = [line.split()[2] for line in log.read_text().splitlines() if line.startswith("7 ")]
    assert tries == ["1", "2", "2", "2", "2"]  # the batch twice, then 4, 2 and 1 pages


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        (signal.SIGPROF, Killed(OUT_OF_TIME, "out of CPU time")),
        (signal.SIGABRT, Killed(CRASHED, "ended by SIGABRT")),
        (signal.SIGTERM, Killed(CRASHED, "ended by SIGTERM")),
    ],
)
def test_other_ends_are_told_apart(how: signal.Signals, verdict: Killed) -> None:
    with Isolated(end, 5, LIMIT) as isolated:
        assert isolated.map([(1, 0), (2, how), (3, 0)]) == [1, verdict, 3]


def test_a_crash_in_c_code_is_the_pages_own() -> None:
    with Isolated(crash, 5, LIMIT) as isolated:
        assert isolated.map([(1, False), (2, True), (3, False)]) == [1, Killed(CRASHED, "ended by SIGSEGV"), 3]


def test_an_end_in_the_middle_of_the_answer_is_an_end_too() -> None:
    with Isolated(break_off, 5, LIMIT) as isolated:
        assert isolated.map([(1, False), (2, True), (3, False)]) == [1, Killed(CRASHED, "ended with status 1"), 3]
