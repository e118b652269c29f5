"""What orders reads from the environment."""

from shared.settings import AmazonSettings


class OrdersSettings(AmazonSettings, frozen=True, kw_only=True):
    """Beside the common ones: how far the first backfill reaches, and how often changes are asked for."""

    backfill_days: int = 90
    delta_interval_seconds: int = 600

    def __post_init__(self) -> None:
        if self.delta_interval_seconds < 1:
            raise ValueError("DELTA_INTERVAL_SECONDS has to be 1 or more")
