"""What poller reads from the environment."""

from shared.settings import Secret, Settings


class PollerSettings(Settings, frozen=True, kw_only=True):
    """Beside the common ones: how often, and from where."""

    jwt_secret: Secret
    poll_interval_seconds: int = 300
    amazon_use_mock: bool

    def __post_init__(self) -> None:
        if not self.amazon_use_mock:
            raise ValueError(
                "AMAZON_USE_MOCK is false, but the mock is the only source of messages that this version has: set it"
                " to true"
            )
        if self.poll_interval_seconds < 1:
            raise ValueError("POLL_INTERVAL_SECONDS has to be 1 or more")
