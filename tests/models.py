"""Amazon's official models, which stand beside the repository, as tests compare with them."""

import functools
from datetime import datetime
from typing import Any

import jsonschema
import msgspec
import pytest

from devstack.servers import AMAZON_MODELS

Json = dict[str, Any]
FILES = {
    "orders": "orders_2026-01-01.json",
    "ordersV0": "ordersV0.json",
    "reports": "reports_2021-06-30.json",
    "sellers": "sellers.json",
    "messaging": "messaging.json",
}

needs_models = pytest.mark.skipif(
    not AMAZON_MODELS.is_dir(),
    reason=f"Amazon's official models are not in {'/'.join(AMAZON_MODELS.parts[-2:])}, so nothing can be compared",
)


@functools.cache
def model(name: str) -> Json:
    decoded: Json = msgspec.json.decode((AMAZON_MODELS / FILES[name]).read_bytes())
    return decoded


def strict(schema: object) -> object:
    """The same schema, but a property that it does not name is an error: so that a typo is found."""
    if isinstance(schema, dict):
        closed = {name: strict(value) for name, value in schema.items()}
        if isinstance(schema.get("properties"), dict):
            closed.setdefault("additionalProperties", False)
        return closed
    return [strict(one) for one in schema] if isinstance(schema, list) else schema


formats = jsonschema.FormatChecker(formats=())


@formats.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def validator(name: str, schema: Json) -> jsonschema.Draft4Validator:
    definitions = strict(model(name)["definitions"])
    return jsonschema.Draft4Validator({**schema, "definitions": definitions}, format_checker=formats)
