"""What stages that map over shards leave running is ended with the tests of one file."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """For tests whose stages start Ray in this process."""
    yield
    import ray

    ray.shutdown()
