"""JSON logs without secrets, and metrics."""

import logging
import re
import sys
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter("events_handled_total", "Deliveries of an event to a handler", ["handler", "outcome"])
HANDLING = Histogram("event_handling_seconds", "Time from delivery to the handler's end", ["handler"])
PUBLISHED = Counter("events_published_total", "Events that the outbox relay has published", ["subject"])
UNPUBLISHED = Gauge("outbox_unpublished", "Events in the outbox that wait for the relay")
LOOP_ERRORS = Counter("loop_errors_total", "Rounds of a background loop that ended in an error", ["loop"])

HIDDEN = "hidden"
# Belt and braces: nothing logs a secret on purpose; what an outside library puts into a message is cut here.
_SECRET_FIELDS = re.compile(
    r"secret|token|password|passwd|authorization|cookie|credential|(?:api|internal)[_-]?key"
    r"|(?:oauth|authorization|auth)_?(?:code|state)$",
    re.IGNORECASE,
)
_PLAIN = (bool, float, Decimal, datetime, UUID)
_JSON_BITS = 64
_ERROR_CODE = re.compile(r"[a-z_]+\Z")
_SECRET_TEXTS = re.compile(
    r"\bAtz[ar](?:\||%7C)[^\s\"'&]+"  # tokens of Login with Amazon
    r"|\bamzn1\.oa2-cs\.[\w.-]+"  # its client secrets
    r"|\bhv[sbr]\.[\w-]+|\bs\.[A-Za-z0-9]{20,}"  # tokens of Vault and OpenBao
    r"|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"  # JSON web tokens
    r"|(?<=://)[^/\s?#]+(?=@)"  # user and password, or a token, in a URL
    r"|(?<=spapi_oauth_code=)[^&\s\"']+|(?<=state=)[^&\s\"']+|(?<=[?&]code=)[^&\s\"']+"
    r"|(?P<name>\b(?:bearer\s+|(?:client_?secret|(?:refresh|access|id)_?token|password|secret_?id"
    r"|x-internal-key|x-vault-token)[\"']?\s*[:=]\s*[\"']?))[^\s\"'&,;}]+",
    re.IGNORECASE,
)


def hide_secrets(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Replace what looks like a secret, by the name of its field or by its form, at any depth."""
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: str, value: Any) -> Any:
    """What is neither a number nor a container is taken as the text it prints as: an exception or a struct may
    hold a secret too.
    """
    if value is None or isinstance(value, _PLAIN) or (isinstance(value, int) and value.bit_length() < _JSON_BITS):
        return value
    if _SECRET_FIELDS.search(key):
        return HIDDEN
    if isinstance(value, dict):
        return {str(inner): _hidden(str(inner), each) for inner, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_hidden(key, each) for each in value]
    raw = value if isinstance(value, bytes) else str(value).encode(errors="backslashreplace")
    text = raw.decode(errors="backslashreplace")
    if key == "code" and not _ERROR_CODE.match(text):  # an error's code stays, Amazon's authorization code does not
        return HIDDEN
    return _SECRET_TEXTS.sub(lambda found: f"{found['name'] or ''}{HIDDEN}", text)


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
    # Their INFO lines hold URLs with query strings, or mails; ours tell the same facts without them.
    for chatty in (
        "httpx",
        "httpcore",
        "uvicorn.access",
        "uvicorn.error",
        "faststream",
        "hvac",
        "urllib3",
        "aioimaplib",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _with_service(service: str) -> structlog.types.Processor:
    def add(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event["service"] = service
        return event

    return add


def _dumps(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger()
