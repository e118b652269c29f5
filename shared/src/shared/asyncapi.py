"""The events of a service as an AsyncAPI 3.0 document, made from the contracts themselves
(FastStream's own generator does not read msgspec structs).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from .events import Event

_HEADERS = {
    "type": "object",
    "description": "CloudEvents 1.0, binary content mode",
    "properties": {
        name: {"type": "string"}
        for name in ("ce-id", "ce-type", "ce-source", "ce-specversion", "ce-time", "Nats-Msg-Id")
    },
}


def document(service: str, publishes: Sequence[type[Event]], consumes: Sequence[type[Event]]) -> dict[str, Any]:
    """What the service sends and receives."""
    events = list(dict.fromkeys([*publishes, *consumes]))
    _, schemas = msgspec.json.schema_components(events, ref_template="#/components/schemas/{name}")
    operations = [("send", event) for event in publishes] + [("receive", event) for event in consumes]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": f"KeyBuzz {service}", "version": "0.1.0"},
        "defaultContentType": "application/json",
        "channels": {
            _id(event): {
                "address": event.SUBJECT,
                "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"}},
            }
            for event in events
        },
        "operations": {
            f"{action}_{_id(event)}": {"action": action, "channel": {"$ref": f"#/channels/{_id(event)}"}}
            for action, event in operations
        },
        "components": {
            "schemas": schemas,
            "messages": {
                event.__name__: {
                    "name": event.SUBJECT,
                    "summary": event.__doc__,
                    "headers": _HEADERS,
                    "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
                }
                for event in events
            },
        },
    }


def _id(event: type[Event]) -> str:
    return event.SUBJECT.replace(".", "_")
