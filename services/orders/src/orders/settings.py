"""What orders reads from the environment."""

from shared.settings import AmazonSettings


class OrdersSettings(AmazonSettings, frozen=True, kw_only=True):
    """Beside the common ones: how far the first backfill of a connection reaches."""

    backfill_days: int = 90
