"""One stack without services for all tests that only look at it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.stack import Stack


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stack") / "state"
    async with Stack(folder, services=()) as running:
        yield running
