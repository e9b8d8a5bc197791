"""What keeps connections free although there are URLs, told when it lasts."""

from collections.abc import Callable

from clipkit.ingest.rows import Limit

_SECONDS = 2.0  # shorter ones, at the end of a list say, are not worth telling


class Limits:
    """Tells a host and why only its URLs could start, again and again while that is so."""

    def __init__(self, tell: Callable[[str, Limit], None]):
        self.tell = tell
        self._since: float | None = None

    def note(self, limit: tuple[str, Limit] | None, now: float) -> None:
        """Take note of what limits now; None: nothing."""
        if limit is None:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= _SECONDS:
            self.tell(*limit)
