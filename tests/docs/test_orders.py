"""docs/orders.md: its examples, as they stand there, against orders as it runs."""

import re
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devstack.stack import Stack
from orders import order_queries
from orders.domain import DeliveryStatus, OrderStatus, SlaStatus, Sort
from shared.db import open_pool
from tests.docs.test_connecting import said
from tests.orders.test_queries import order

PAGE = (Path(__file__).parents[2] / "docs" / "orders.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """As a checkout in which `make up` runs, with five orders of the example's tenant."""
    for command in ("curl", "jq"):
        assert shutil.which(command), f"{command} is not on this machine"
    folder: Path = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(sys.prefix)
    async with Stack(folder / ".local", services=("orders",)) as stack:
        pool = await open_pool(stack.endpoints.postgres.dsns["orders"], "test")
        now = datetime.now(UTC)
        late = [
            order(
                f"171-000000{number}-0000000", order_date=now - timedelta(days=number), ship_by=now - timedelta(days=1)
            )
            for number in range(3)
        ]
        named = order("407-8949262-6149120", customer_name="Jean Martin", order_status=OrderStatus.DELIVERED)
        async with pool.acquire() as conn, conn.transaction():
            await order_queries.upsert_orders(conn, "ecomlg-001", [*late, named, order("407-0000000-0000000")])
        await pool.close()
        yield folder


async def test_the_examples_list_search_and_read_orders(folder: Path) -> None:
    variables, listing, paging, search, one, unchanged = BLOCKS
    late = (await said(folder, variables, listing))["orders"]
    assert [each["externalOrderId"][:11] for each in late] == [f"171-000000{number}" for number in (2, 1, 0)]
    second = await said(folder, variables, paging)
    assert (second["orders"][0]["externalOrderId"], len(second["orders"])) == ("171-0000002-0000000", 2)
    for line in search.splitlines():
        [found] = (await said(folder, variables, line))["orders"]
        assert found["externalOrderId"] == "407-8949262-6149120", line
    assert len((await said(folder, variables, one))["items"]) == 1
    assert await said(folder, variables, one.splitlines()[0], unchanged) == 304


def test_the_page_names_every_status_and_sort() -> None:
    for word in (*OrderStatus, *DeliveryStatus, *SlaStatus, *Sort):
        assert re.search(rf"(?<![\w-]){word}(?!\w)", PAGE), word
