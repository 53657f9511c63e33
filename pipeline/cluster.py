"""Ray: start it on this machine or connect to a cluster, with one clear line when that fails. Imported lazily."""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from pipeline.errors import UserError

CONNECT_TIMEOUT_S = float(os.environ.get("CRAWL2CHAT_CONNECT_TIMEOUT_S", "60"))
HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"  # Ray's word for: a task that asked for no GPU sees none
PASSED_ON = ("CRAWL2CHAT_", HIDE_GPUS)  # environment of the driver that its workers see on a cluster that it did not start


@dataclass(frozen=True)
class ClusterConfig:
    """Where tasks and ranks run."""

    kind: Literal["local", "existing"] = "local"
    address: Annotated[str, Meta(description="head of an existing cluster, host:port; auto: RAY_ADDRESS or this machine's")] = "auto"
    cpus: Annotated[int, Meta(ge=0, description="CPUs of a local Ray; 0: all")] = 0
    object_store_gb: Annotated[float, Meta(ge=0.08, description="Ray's object store on this machine, GB (paths travel, not data)")] = 0.25


def connect(cluster: ClusterConfig) -> dict[str, float]:
    """Make Ray usable in this process, once; gives the resources that are there, as Ray names them. UserError says what to mend."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported; a head without tokens ignores them
    import ray

    if not ray.is_initialized():
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            _initialize(cluster, token)
        finally:
            signal.signal(signal.SIGTERM, terminated)  # Ray puts one of its own in its place
    there: dict[str, float] = ray.cluster_resources()
    return there


def _initialize(cluster: ClusterConfig, token: Path) -> None:
    import ray

    os.environ.setdefault(HIDE_GPUS, "1")
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    if cluster.kind == "existing":
        _join(cluster.address, environment)
        return
    os.environ.setdefault("RAY_task_oom_retries", "3")
    ray.init(
        address="local",  # num_cpus would otherwise be refused where another Ray runs on this machine
        num_cpus=cluster.cpus or os.cpu_count(),
        object_store_memory=int(cluster.object_store_gb * 2**30),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    if token.exists() and token.stat().st_mode & 0o077:
        token.chmod(0o600)


def _join(address: str, environment: dict[str, str]) -> None:
    """Connect within CONNECT_TIMEOUT_S: `ray.init` itself can be silent for ten minutes before a half-dead head."""
    import ray

    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": environment})
        except (ConnectionError, RuntimeError, ValueError) as error:
            failures.append(error)

    thread = threading.Thread(target=attempt, daemon=True, name="ray-connect")
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    if thread.is_alive():
        raise UserError(_advice(address, f"no answer within {CONNECT_TIMEOUT_S:g} s"))
    if failures:
        raise UserError(_advice(address, str(failures[0]).strip().splitlines()[0]))


def _advice(address: str, reason: str) -> str:
    return (
        f"cluster.address={address}: cannot connect to Ray ({reason}); start a head with `ray start --head`, "
        "check the address, and where the cluster uses tokens set RAY_AUTH_MODE=token with the same token on every node"
    )
