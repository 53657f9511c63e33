"""Fixtures shared by all tests."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data that stands beside the checkout; tests that need it skip where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real test data is not here ({path})")
    return path


@pytest.fixture(scope="session")
def ray_token() -> None:
    """The token of every Ray here: the first that a test starts would leave one in the home folder, at odds with heads that have none."""
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def ray_head(ray_token: None) -> Iterator[str]:
    """The address of one Ray head for the whole session; drivers join it instead of starting their own.

    It claims more CPUs than there may be: a frozen driver keeps those it holds, and others must still get some.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=8"]
    command += ["--include-dashboard=false", "--object-store-memory=250000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_AUTH_MODE": "token",
    }
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True)
    assert head.stdout is not None
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    else:
        pytest.fail("the Ray head did not start")
    yield f"127.0.0.1:{port}"
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(timeout=10)
    except subprocess.TimeoutExpired:  # actors of trainings hold it up
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
