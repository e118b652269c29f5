"""deploy/nats/permissions.conf, made from shared/topology.py: what each user of NATS may do."""

from pathlib import Path

from shared.topology import CONSUMERS, SERVICES, published_by

FILE = Path(__file__).parents[3] / "deploy" / "nats" / "permissions.conf"
USERS = (*SERVICES, "product", "provisioner", "operator")

# The product app publishes these whether or not a service listens yet.
PRODUCT_SUBJECTS = ("tenant.created", "tenant.updated", "tenant.archived")

HEADER = """\
# Made from shared/topology.py by: python -m devstack permissions
# Do not edit: a test compares this file with what the topology asks for.
# Services use the inbox prefix _INBOX_<user>: nobody reads another's answers.
"""


def password_variable(user: str) -> str:
    return f"NATS_{user.replace('-', '_').upper()}_PASSWORD"


def render() -> str:
    lines = [HEADER, "accounts {", "  KEYBUZZ {", "    jetstream: enabled", "    users: ["]
    for user in USERS:
        publish, subscribe = _allowed(user)
        lines += [
            "      {",
            f"        user: {user}",
            f"        password: ${password_variable(user)}",
            "        permissions: {",
            "          publish: { allow: [",
            *(f'            "{subject}"' for subject in publish),
            "          ] }",
            "          subscribe: { allow: [",
            *(f'            "{subject}"' for subject in subscribe),
            "          ] }",
            *(['          allow_responses: { max: 1, expires: "1m" }'] if user in SERVICES else []),
            "        }",
            "      }",
        ]
    lines += ["    ]", "  }", "}", ""]
    return "\n".join(lines)


def _allowed(user: str) -> tuple[list[str], list[str]]:
    """The subjects that a user publishes, and those that it subscribes to."""
    inbox = f"_INBOX_{user}.>"
    if user == "operator":  # a person: sees, replays and repairs everything, with the CLI's own inboxes
        return [">"], [">"]
    if user == "provisioner":
        return ["$JS.API.>"], [inbox]
    if user == "product":
        own = [event.SUBJECT for event in published_by(user) if event.SUBJECT not in PRODUCT_SUBJECTS]
        return [*PRODUCT_SUBJECTS, *own], [inbox]
    return _service_subjects(user), [inbox, *_requests_to(user)]


def _requests_to(service: str) -> list[str]:
    """What a service answers: its operations, and what `nats micro` asks of all services, of it, and of one replica."""
    verbs = [f"$SRV.{verb}" for verb in ("PING", "INFO", "STATS")]
    return [f"{service}.>", *verbs, *(f"{verb}.{service}{rest}" for verb in verbs for rest in ("", ".*"))]


def _service_subjects(service: str) -> list[str]:
    subjects = [event.SUBJECT for event in published_by(service)]
    for consumer in CONSUMERS:
        if consumer.service != service:
            continue
        place = f"{consumer.stream}.{consumer.durable}"
        subjects += [
            f"$JS.API.CONSUMER.INFO.{place}",
            f"$JS.API.CONSUMER.MSG.NEXT.{place}",
            # Both forms of acknowledgement: newer servers put the domain and a hash in front.
            f"$JS.ACK.{place}.>",
            f"$JS.ACK.*.*.{place}.>",
            consumer.dead_letter_subject,
        ]
    return subjects
