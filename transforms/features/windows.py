"""Windows: how long a record counts, and in which steps it leaves."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from transforms.errors import DeclarationError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SHORTEST = timedelta(minutes=5)
# Chronon's resolutions: a window under 12 hours moves every 5 minutes, under 12 days hourly, else
# daily
HOPS = ((timedelta(hours=12), timedelta(minutes=5)), (timedelta(days=12), timedelta(hours=1)))
UNITS = (
    ("d", "days", timedelta(days=1)),
    ("h", "hours", timedelta(hours=1)),
    ("m", "minutes", timedelta(minutes=1)),
)


class Window(NamedTuple):
    """A trailing window of time, or without a length the lifetime of an entity.

    A record leaves it at its event timestamp plus `length`, rounded up to the next whole `hop`
    since 1970, UTC.
    """

    name: str
    length: timedelta | None = None
    hop: timedelta = timedelta(0)

    @property
    def length_us(self) -> int:
        """The length in microseconds; 0 for a lifetime."""
        return self.length // MICROSECOND if self.length else 0

    @property
    def hop_us(self) -> int:
        """The hop in microseconds."""
        return self.hop // MICROSECOND

    @property
    def leaves_us(self) -> str:
        """SQL of when a record leaves, in microseconds since 1970, from `event_us`; null for never.

        >>> days(1).leaves_us
        '(event_us + 89999999999) // 3600000000 * 3600000000'
        """
        if self.length is None:
            return "null::bigint"
        return f"(event_us + {self.length_us + self.hop_us - 1}) // {self.hop_us} * {self.hop_us}"

    def leaves(self, event_timestamp: datetime) -> datetime | None:
        """Return when a record of an event timestamp leaves; None for never.

        >>> days(1).leaves(datetime(2026, 1, 1, 10, 20, tzinfo=UTC)).isoformat()
        '2026-01-02T11:00:00+00:00'
        """
        if self.length is None:
            return None
        return EPOCH - (EPOCH - event_timestamp - self.length) // self.hop * self.hop

    @property
    def words(self) -> str:
        """The window in words.

        >>> days(7).words, days(1).words, lifetime.words
        ('of the last 7 days', 'of the last day', 'so far')
        """
        if self.length is None:
            return "so far"
        _, unit, one = next(item for item in UNITS if not self.length % item[2])
        n_units = self.length // one
        return (
            f"of the last {n_units} {unit}"
            if n_units > 1
            else f"of the last {unit.removesuffix('s')}"
        )


lifetime = Window("lifetime")


def minutes(n: int, hop: timedelta | None = None) -> Window:
    """A window of `n` minutes, at least 5.

    >>> minutes(90).name
    '90m'
    """
    return window(timedelta(minutes=n), hop)


def hours(n: int, hop: timedelta | None = None) -> Window:
    """A window of `n` hours.

    >>> hours(6)
    Window(name='6h', length=datetime.timedelta(seconds=21600), hop=datetime.timedelta(seconds=300))
    """
    return window(timedelta(hours=n), hop)


def days(n: int, hop: timedelta | None = None) -> Window:
    """A window of `n` days.

    >>> days(28).words
    'of the last 28 days'
    """
    return window(timedelta(days=n), hop)


def window(length: timedelta, hop: timedelta | None = None) -> Window:
    """A window of a length in whole minutes; without `hop`, its hop is Chronon's for that length.

    Raises `DeclarationError` for a window shorter than 5 minutes or than its hop.

    >>> window(timedelta(days=14)).hop, window(timedelta(days=14), hop=timedelta(hours=1)).hop
    (datetime.timedelta(days=1), datetime.timedelta(seconds=3600))
    """
    if length < SHORTEST or length % timedelta(minutes=1):
        message = (
            f"a window of {length} is too short or no whole number of minutes; "
            "the shortest is minutes(5)"
        )
        raise DeclarationError(message)
    found = hop or next((step for limit, step in HOPS if length < limit), timedelta(days=1))
    if not timedelta(0) < found <= length:
        message = (
            f"a window of {length} is shorter than its hop of {found}; "
            "give it a shorter hop=..., or leave hop out"
        )
        raise DeclarationError(message)
    letter, _, one = next(item for item in UNITS if not length % item[2])
    return Window(f"{length // one}{letter}", length, found)
