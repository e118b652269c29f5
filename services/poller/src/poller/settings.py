"""What poller reads from the environment."""

from collections.abc import Container
from typing import Annotated

from msgspec import Meta

from shared.settings import AmazonSettings


class PollerSettings(AmazonSettings, frozen=True, kw_only=True):
    """Beside the common ones: how often, and from where."""

    poll_interval_seconds: int = 300
    amazon_use_mock: bool
    """Three fixed messages in place of what Amazon has."""
    amazon_read_messages: bool = False
    """Ask the messaging operation for the messages of changed orders. Amazon's published API has no such operation: it
    is there for a stand-in only.
    """
    mailboxes: Annotated[str, Meta(pattern=r"\A(?:[a-z0-9][a-z0-9-]{0,62}(?:,[a-z0-9][a-z0-9-]{0,62})*)?\Z")] = ""
    """The names of the mailboxes that buyers' messages come to, by commas; each has its account in Vault."""
    mail_authserv_id: str | None = None
    """What their server calls itself in Authentication-Results."""
    mailbox_cacert: str | None = None

    @property
    def is_polling(self) -> bool:
        """Whether there is a source that is asked; mailboxes are read by themselves."""
        return self.amazon_use_mock or self.amazon_read_messages

    @property
    def mailbox_names(self) -> list[str]:
        return sorted({name for name in self.mailboxes.split(",") if name})

    @classmethod
    def missing_together(cls, given: Container[str]) -> list[str]:
        missing = super().missing_together(given)
        if "mailboxes" in given and "mail_authserv_id" not in given:
            missing.append(
                "MAIL_AUTHSERV_ID is missing: with MAILBOXES, it says whose Authentication-Results are believed"
            )
        return missing

    def __post_init__(self) -> None:
        if self.amazon_use_mock and self.amazon_read_messages:
            raise ValueError("AMAZON_USE_MOCK and AMAZON_READ_MESSAGES are both true: the mock is in Amazon's place")
        if not self.is_polling and not self.mailboxes:
            raise ValueError(
                "AMAZON_USE_MOCK and AMAZON_READ_MESSAGES are false and MAILBOXES is empty, which leaves no source of"
                " messages: set one of the three"
            )
        if self.poll_interval_seconds < 1:
            raise ValueError("POLL_INTERVAL_SECONDS has to be 1 or more")
