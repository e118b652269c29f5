"""docs/connecting.md: its examples, as they stand there, against oauth as it runs."""

import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from devstack.stack import Stack
from tests.docs.test_publishing import run

PAGE = (Path(__file__).parents[2] / "docs" / "connecting.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """As a checkout in which `make up` runs: .local is the stack's state, .venv ours."""
    for command in ("curl", "jq"):
        assert shutil.which(command), f"{command} is not on this machine"
    folder: Path = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(sys.prefix)
    async with Stack(folder / ".local", services=("oauth",)):
        yield folder


async def said(folder: Path, *blocks: str) -> Any:
    """What the last of the blocks prints."""
    path = os.environ["PATH"]
    answer = await run("/bin/sh", "-ec", "\n".join(blocks), folder=folder, PATH=path, HOME=str(folder))
    return msgspec.json.decode(answer)


async def test_the_examples_begin_show_and_end_a_connection(folder: Path) -> None:
    variables, start, login, status, history, disconnect = BLOCKS
    assert set(await said(folder, variables, start)) == {"authUrl", "expiresAt", "message"}
    auth_url = (await said(folder, variables, login))["authUrl"]
    assert "/apps/authorize/confirm/example?" in auth_url
    assert "amazon_state=example" in auth_url
    assert (await said(folder, variables, status))["status"] == "PENDING"
    assert [change["toStatus"] for change in (await said(folder, variables, history))["items"]] == ["PENDING"]
    assert (await said(folder, variables, disconnect))["status"] == "DISCONNECTED"
