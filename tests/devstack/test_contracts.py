from devstack import contracts
from shared.events import EVENTS


def test_the_committed_page_of_events_is_that_of_the_contracts() -> None:
    assert contracts.FILE.read_text() == contracts.render(), "run: python -m devstack contracts"


def test_every_event_has_its_place_on_the_page() -> None:
    page = contracts.render()
    for event in EVENTS:
        assert f"\n## {event.SUBJECT}\n" in page
