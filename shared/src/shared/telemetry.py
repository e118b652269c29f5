"""JSON logs without secrets, and metrics."""

import logging
import re
import sys
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter("events_handled_total", "Deliveries of an event to a handler", ["handler", "outcome"])
HANDLING = Histogram("event_handling_seconds", "Time from delivery to the handler's end", ["handler"])
PUBLISHED = Counter("events_published_total", "Events that the outbox relay has published", ["subject"])
UNPUBLISHED = Gauge("outbox_unpublished", "Events in the outbox that wait for the relay")
LOOP_ERRORS = Counter("loop_errors_total", "Rounds of a background loop that ended in an error", ["loop"])

# Belt and braces: nothing logs a secret on purpose; what an outside library puts into a message is cut here.
_SECRET_FIELDS = re.compile(
    r"secret|token|password|authorization|cookie|api_?key|internal_?key|\bcode\b", re.IGNORECASE
)
_SECRET_TEXTS = re.compile(
    r"Atz[ar]\|[^\s\"'&]+|\bhvs\.[\w-]+|\bs\.[A-Za-z0-9]{20,}|eyJ[\w-]{10,}\.[\w-]+\.[\w-]+"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|(?<=spapi_oauth_code=)[^&\s\"']+|(?<=state=)[^&\s\"']+|(?<=code=)[^&\s\"']+"
)


def hide_secrets(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Replace what looks like a secret, by the name of its field or by its form, at any depth."""
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return "hidden" if _SECRET_FIELDS.search(key) else _SECRET_TEXTS.sub("hidden", value)
    if isinstance(value, dict):
        return {str(inner): _hidden(str(inner), each) for inner, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(key, each) for each in value]
    return value


def configure_logging(service: str, level: str) -> None:
    """One JSON line per fact on standard output, for our loggers and for the libraries' ones."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _with_service(service),
        hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(_dumps),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Their INFO lines hold URLs with query strings; ours tell the same facts without them.
    for chatty in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error", "faststream", "hvac", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _with_service(service: str) -> structlog.types.Processor:
    def add(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add


def _dumps(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
