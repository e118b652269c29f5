"""All four services as real processes, used from outside only."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.outside import Outside
from devstack.stack import Stack


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Few and quick retries, so that dead letters come soon; a service that a test kills stays down until the test
    starts it.
    """
    folder: Path = tmp_path_factory.mktemp("running") / "state"
    settings = {"MAX_DELIVERIES": "4", "RETRY_BASE_SECONDS": "0.1", "POLL_INTERVAL_SECONDS": "3600"}
    async with Stack(folder, settings=settings, restart=False) as stack:
        yield stack


@pytest.fixture
async def outside(running: Stack) -> AsyncIterator[Outside]:
    async with Outside(running.endpoints) as system:
        yield system
