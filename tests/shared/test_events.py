"""The contracts: hand-made samples that every later version has to read and to write the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import asyncapi, events
from shared.topology import CONSUMERS, SERVICES, consumer_of, published_by, stream_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
BY_SUBJECT = {event.SUBJECT: event for event in events.EVENTS}
EVENT_IDS = [event.SUBJECT for event in events.EVENTS]
OF_A_TENANT = [event for event in events.EVENTS if issubclass(event, events.TenantEvent)]

FIELDS_WITHOUT_PERSONAL_DATA = {
    *("tenantId", "name", "plan", "status", "syncedAt"),  # name is the tenant's, a company
    *("inboundAddresses", "inboundAddress", "email", "country"),  # addresses of the tenant's own, given by us
    *("marketplace", "marketplaceIds", "connectionId", "sellerId", "region", "appSource"),
    *("connectedAt", "reauthorizeBy", "reason", "at", "daysLeft", "rotateBy"),
    *("messageId", "externalId", "ticketId", "externalOrderId", "source", "receivedAt", "replyBy"),
    *("orderId", "orderStatus", "isNew", "cause"),
    *("jobId", "days", "window", "from", "to", "ordersStored", "itemsStored", "etaSeconds", "error"),
}


def contract_of(sample: Path) -> type[events.Event]:
    """message.received.without-order.json is a sample of message.received."""
    return BY_SUBJECT[".".join(sample.name.split(".")[:2])]


def first_sample(event: type[events.Event]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        (Path(__file__).parent / "golden" / f"{event.SUBJECT}.json").read_bytes()
    )
    return found


def is_kept(sample: Any, written: Any) -> bool:
    """All that the sample says is written again; a field that was added since may stand beside it."""
    if isinstance(sample, dict):
        return isinstance(written, dict) and all(
            name in written and is_kept(value, written[name]) for name, value in sample.items()
        )
    if isinstance(sample, list):
        return isinstance(written, list) and len(sample) == len(written) and all(map(is_kept, sample, written))
    return bool(sample == written)


@pytest.mark.parametrize("sample", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_sample_is_read_and_written_the_same(sample: Path) -> None:
    body = sample.read_bytes()
    event = msgspec.json.decode(body, type=contract_of(sample))
    assert is_kept(msgspec.json.decode(body), msgspec.json.decode(msgspec.json.encode(event)))


@pytest.mark.parametrize("event", events.EVENTS, ids=EVENT_IDS)
def test_every_event_has_a_golden_sample_with_every_field_that_must_be_there(event: type[events.Event]) -> None:
    required = {field.encode_name for field in msgspec.structs.fields(event) if field.required}
    assert required <= first_sample(event).keys()


@pytest.mark.parametrize("event", events.EVENTS, ids=EVENT_IDS)
def test_every_field_of_an_event_stands_in_some_sample(event: type[events.Event]) -> None:
    shown = {
        name for sample in GOLDEN if contract_of(sample) is event for name in msgspec.json.decode(sample.read_bytes())
    }
    assert shown == {field.encode_name for field in msgspec.structs.fields(event)}


@pytest.mark.parametrize("event", events.EVENTS, ids=EVENT_IDS)
def test_a_field_that_is_not_known_yet_is_tolerated(event: type[events.Event]) -> None:
    known = first_sample(event)
    newer = msgspec.json.encode(known | {"addedLater": {"by": ["a", "newer", "version"]}})
    assert msgspec.json.decode(newer, type=event) == msgspec.convert(known, event)


@pytest.mark.parametrize("event", events.EVENTS, ids=EVENT_IDS)
def test_an_event_without_one_of_its_required_fields_is_refused(event: type[events.Event]) -> None:
    sample = first_sample(event)
    for field in msgspec.structs.fields(event):
        if not field.required:
            continue
        body = msgspec.json.encode({name: value for name, value in sample.items() if name != field.encode_name})
        with pytest.raises(msgspec.ValidationError, match=f"`{field.encode_name}`"):
            msgspec.json.decode(body, type=event)


@pytest.mark.parametrize("event", OF_A_TENANT, ids=lambda event: event.SUBJECT)
@pytest.mark.parametrize(
    "tenant_id", ["", "../oauth", "a/b", "a.b", "kbz 1", "kbz-1\n", "\nkbz-1", "-kbz", "é", "a" * 65, 7, None]
)
def test_what_is_no_tenant_id_is_refused(event: type[events.Event], tenant_id: object) -> None:
    body = msgspec.json.encode(first_sample(event) | {"tenantId": tenant_id})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=event)


@pytest.mark.parametrize("tenant_id", ["kbz-001", "tenant_test_dev", "ecomlg-001", "7", "a" * 64])
def test_what_the_product_calls_its_tenants_is_a_tenant_id(tenant_id: str) -> None:
    body = msgspec.json.encode({"tenantId": tenant_id})
    assert msgspec.json.decode(body, type=events.TenantCreated).tenant_id == tenant_id


@pytest.mark.parametrize("order_id", ["", "../orders", "407-8949262-6149120\n", "407/8", "a" * 65, 407])
def test_what_is_no_order_id_is_refused(order_id: object) -> None:
    body = msgspec.json.encode(first_sample(events.OrderStored) | {"externalOrderId": order_id})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=events.OrderStored)


@pytest.mark.parametrize("event", events.EVENTS, ids=EVENT_IDS)
def test_no_event_has_a_field_for_personal_data(event: type[events.Event]) -> None:
    schemas = asyncapi.document("any", [event], [])["components"]["schemas"].values()
    names = {name for schema in schemas for name in schema.get("properties", {})}
    assert names <= FIELDS_WITHOUT_PERSONAL_DATA


def test_every_subject_and_every_publisher_is_known() -> None:
    assert len(BY_SUBJECT) == len(events.EVENTS)
    for event in events.EVENTS:
        assert {*event.PUBLISHERS} <= {*SERVICES, "product"}
        assert stream_of(event.SUBJECT)


def test_a_subject_that_no_stream_stores_and_a_handler_without_a_consumer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"invoice\.paid"):
        stream_of("invoice.paid")
    with pytest.raises(ValueError, match="send_invoice"):
        consumer_of("orders", "send_invoice")


def test_every_consumer_reads_from_the_stream_that_stores_its_event() -> None:
    assert [consumer.stream for consumer in CONSUMERS] == [stream_of(consumer.event.SUBJECT) for consumer in CONSUMERS]
    assert len({consumer.durable for consumer in CONSUMERS}) == len(CONSUMERS)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


@pytest.mark.parametrize("service", SERVICES)
def test_the_asyncapi_document_of_a_service_is_whole(service: str) -> None:
    publishes = published_by(service)
    consumes = [consumer.event for consumer in CONSUMERS if consumer.service == service]
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asyncapi.document(service, publishes, consumes)))

    assert document["asyncapi"] == "3.0.0"
    assert document["info"].keys() >= {"title", "version"}
    found = list(references(document))
    assert found
    for reference in found:
        assert resolve(document, reference), reference

    told = {
        (operation["action"], resolve(document, operation["channel"]["$ref"])["address"])
        for operation in document["operations"].values()
    }
    assert told == {("send", event.SUBJECT) for event in publishes} | {("receive", event.SUBJECT) for event in consumes}
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            payload = resolve(document, resolve(document, message["$ref"])["payload"]["$ref"])
            if "tenantId" in payload["properties"]:
                assert "tenantId" in payload["required"]
                assert re.compile(payload["properties"]["tenantId"]["pattern"])
            else:
                assert message["$ref"].endswith("/ApplicationSecretExpiring")
