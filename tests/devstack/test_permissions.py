from devstack import permissions
from shared.topology import SERVICES, published_by


def test_the_committed_permissions_are_those_of_the_topology() -> None:
    assert permissions.FILE.read_text() == permissions.render(), "run: python -m devstack permissions"


def test_no_service_may_use_the_streams_api() -> None:
    for service in SERVICES:
        assert not [
            subject for subject in permissions._service_subjects(service) if subject.startswith("$JS.API.STREAM")
        ]


def test_no_wildcard_lets_a_service_publish_events_of_others() -> None:
    for service in SERVICES:
        subjects = permissions._service_subjects(service)
        events = [subject for subject in subjects if not subject.startswith(("$JS.", "dlq."))]
        assert events == [event.SUBJECT for event in published_by(service)]
