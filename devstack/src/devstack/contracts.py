"""docs/events.md, made from the contracts and the topology."""

import inspect
import typing
from pathlib import Path
from typing import Any

import msgspec

from shared.events import EVENTS, Event
from shared.topology import CONSUMERS, STREAMS, stream_of

FILE = Path(__file__).parents[3] / "docs" / "events.md"

_HEAD = """\
# Events

Made from shared/events.py and shared/topology.py by `python -m devstack contracts`; a test compares. Bodies are JSON,
camelCase, data only: ids, never personal data; readers fetch the rest over HTTP. A new field has a default; anything
else is a new subject.

Services publish CloudEvents 1.0 in binary content mode: `ce-id` (UUIDv7, also the `Nats-Msg-Id`), `ce-type`,
`ce-source`, `ce-time` and `ce-specversion` are headers, the body is the data. A body without headers is welcome from
the product app and from the NATS CLI:

    nats pub tenant.created '{"tenantId":"kbz-003"}'

How the product app publishes its events, and what to do without an acknowledgement: [publishing.md](publishing.md).

An event reaches every consumer at least once and takes effect once; events of one aggregate are published in the
order of their commits. What cannot be handled stands in the stream DLQ under `dlq.<stream>.<consumer>`, with
the headers `dlq-code`, `dlq-reason`, `dlq-subject`, `dlq-stream`, `dlq-sequence` and `dlq-deliveries`.
"""


def render() -> str:
    lines = [_HEAD, "## Streams", "", "| stream | subjects | kept | bytes at most |", "|---|---|---|---|"]
    for stream in STREAMS:
        subjects = ", ".join(f"`{subject}`" for subject in stream.subjects)
        days = stream.max_age_seconds // 86_400
        lines.append(f"| {stream.name} | {subjects} | {days} days | {stream.max_bytes >> 20} MiB |")
    for event in EVENTS:
        lines += _event(event)
    return "\n".join(lines) + "\n"


def _event(event: type[Event]) -> list[str]:
    consumers = [f"`{consumer.durable}`" for consumer in CONSUMERS if consumer.event is event]
    told = ", ".join(consumers) or "the product app"
    lines = [
        "",
        f"## {event.SUBJECT}",
        "",
        inspect.getdoc(event) or "",
        "",
        f"Publisher: {' or '.join(event.PUBLISHERS)}. Stream: {stream_of(event.SUBJECT)}. Consumers: {told}.",
        "",
        "| field | type | |",
        "|---|---|---|",
    ]
    fields = msgspec.structs.fields(event)
    return lines + [
        f"| {field.encode_name} | {_type(field.type)} | {'' if field.required else 'optional'} |" for field in fields
    ]


def _type(type_: Any) -> str:
    if typing.get_origin(type_) is typing.Annotated:
        return _type(typing.get_args(type_)[0])
    if typing.get_origin(type_) is list:
        return f"list of {_type(typing.get_args(type_)[0])}"
    arguments = [each for each in typing.get_args(type_) if each is not type(None)]
    if arguments:
        return " or ".join(_type(each) for each in arguments)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        fields = msgspec.structs.fields(type_)
        return f"{{{', '.join(field.encode_name for field in fields)}}}"
    names = {"str": "string", "int": "integer", "datetime": "time (RFC 3339)", "UUID": "UUID"}
    values = getattr(type_, "__members__", None)
    return ", ".join(values[name].value for name in values) if values else names.get(type_.__name__, type_.__name__)
