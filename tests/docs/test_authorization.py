"""docs/authorization.md: its diagram of states has the arrows that the code allows, and no other."""

import re
from pathlib import Path

from oauth.domain import TRANSITIONS, Status

PAGE = (Path(__file__).parents[2] / "docs" / "authorization.md").read_text()
ARROW = re.compile(r"(\[\*\]|\w+) --> (\w+): \S.*")


def arrows() -> list[tuple[str, str]]:
    """From and to, in the order of the page; [*] is a tenant without a connection."""
    [diagram] = re.findall(r"^```mermaid\nstateDiagram-v2\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for line in diagram.splitlines()]
    found = [ARROW.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(match[1].replace("[*]", Status.NOT_CONNECTED), match[2]) for match in found if match]


def test_the_diagram_has_every_transition_and_no_other() -> None:
    drawn = arrows()
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {
        (before.value, after.value) for before, all_after in TRANSITIONS.items() for after in all_after
    }
