"""Splits of a training set by time, with an embargo, so that no label reaches into the next."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa

from transforms.errors import QuestionError
from transforms.features.windows import MICROSECOND
from transforms.instants import instant_of, instants_in
from transforms.pages import Table
from transforms.pages.notebook import fragment

if TYPE_CHECKING:
    from transforms.features.windows import Window

TIME = "event_timestamp"
MOST = 1 + 1e-9  # shares such as 0.7, 0.2 and 0.1 add up to a little more than 1


class Span(NamedTuple):
    """The instants of a split, from `since`, which is included, until `until`, which is not."""

    since: datetime
    until: datetime


class Splits(dict[str, pl.DataFrame]):
    """Frames by name, in order of time.

    `spans` has the instants of each; `n_embargo` rows fell between two of them, and `n_other` are
    of an entity that belongs to another split.
    """

    def __init__(
        self,
        frames: Mapping[str, pl.DataFrame],
        spans: Mapping[str, Span],
        n_embargo: int,
        n_other: int,
    ) -> None:
        """Take the frames, their spans, and the numbers of rows left out."""
        super().__init__(frames)
        self.spans, self.n_embargo, self.n_other = dict(spans), n_embargo, n_other

    def _repr_html_(self) -> str:
        left_out = [("in the embargo", self.n_embargo), ("of other entities", self.n_other)]
        return fragment("Splits", left_out, [rows_by_split(self)])


def rows_by_split(parts: Mapping[str, pl.DataFrame]) -> Table:
    """Say of each split how many rows it has, from when to when, and the share of positive ones."""
    rows = [
        (name, part.height, part[TIME].min(), part[TIME].max(), _positive(part))
        for name, part in parts.items()
    ]
    return Table("Rows by split", ["split", "rows", "from", "to", "positive"], rows)


def _positive(part: pl.DataFrame) -> str:
    if "label" not in part.columns or part["label"].dtype != pl.Boolean or part.is_empty():
        return ""
    return f"{int(part['label'].sum()) / part.height:.2%}"


def split(
    frame: pl.DataFrame,
    parts: Mapping[str, Any],
    *,
    horizon: timedelta = timedelta(0),
    embargo: "timedelta | Window | None" = None,
    by: str | Sequence[str] | None = None,
) -> Splits:
    """Split rows by `event_timestamp`.

    `parts` names the splits in order of time, each with its share of the rows (they add up to at
    most 1) or the instant at which it ends, which is not included. After the end of a split come
    rows of no split, as long as the `embargo`: by default the `horizon` of the labels, and never
    shorter, for else a label would tell what happened in the next split. With `by` every value of a
    column, or of several, is in one split only: digests draw which, and its other rows are left
    out.

    Raises `QuestionError` where a split would leak or have no rows.

    >>> times = pl.datetime_range(datetime(2026, 1, 1), datetime(2026, 1, 10), "1d", eager=True)
    >>> made = split(pl.DataFrame({"event_timestamp": times}), {"train": 0.6, "valid": 0.4},
    ...     horizon=timedelta(days=2))
    >>> {name: part.height for name, part in made.items()}, made.n_embargo
    ({'train': 6, 'valid': 2}, 2)
    """
    pause = embargo if isinstance(embargo, timedelta) else getattr(embargo, "length", None)
    pause = horizon if pause is None else pause
    if pause < horizon:
        message = (
            f"embargo={pause}: labels reach {horizon} ahead, so they would tell what happened in "
            f"the next split; the shortest is the horizon"
        )
        raise QuestionError(message)
    if frame.is_empty() or not parts:
        message = (
            "split: there are no rows to split" if parts else "split: say train=0.7, valid=0.3"
        )
        raise QuestionError(message)
    known = instants_in(pa.chunked_array(frame[TIME].to_arrow()), TIME)
    times = pl.Series(TIME, known).dt.cast_time_unit("us")
    spans = _spans(times.sort(), parts, pause)
    inside = {
        name: frame.filter((times >= span.since) & (times < span.until))
        for name, span in spans.items()
    }
    kept = _of_entities(inside, [by] if isinstance(by, str) else list(by)) if by else inside
    if empty := next((name for name, part in kept.items() if part.is_empty()), None):
        message = (
            f"{empty}: has no rows from {spans[empty].since} until {spans[empty].until}, after an "
            f"embargo of {pause}; give it more, or ask for labels of a shorter horizon"
        )
        raise QuestionError(message)
    n_inside = sum(part.height for part in inside.values())
    n_until_end = int((times < max(span.until for span in spans.values())).sum())
    n_kept = sum(part.height for part in kept.values())
    return Splits(kept, spans, n_until_end - n_inside, n_inside - n_kept)


def _spans(instants: pl.Series, parts: Mapping[str, Any], pause: timedelta) -> dict[str, Span]:
    """Find from when until when each split is."""
    ends = _ends(instants, list(parts.values()))
    if any(end <= before for before, end in pairwise([instants[0], *ends])):
        message = f"{dict(parts)}: name the splits in order of time, each with the end of its own"
        raise QuestionError(message)
    begins = [instants[0], *(end + pause for end in ends)]
    return {name: Span(*span) for name, *span in zip(parts, begins, ends, strict=False)}


def _ends(instants: pl.Series, parts: Sequence[Any]) -> list[datetime]:
    after = instants[-1] + MICROSECOND
    if not any(isinstance(part, float | int) for part in parts):
        return [after if part is None else instant_of(part) or after for part in parts]
    if not all(isinstance(part, float | int) and part > 0 for part in parts) or sum(parts) > MOST:
        message = f"{list(parts)}: are no shares above 0 that add up to at most 1"
        raise QuestionError(message)
    places = [round(share * len(instants)) for share in accumulate(parts)]
    return [instants[place] if place < len(instants) else after for place in places]


def _of_entities(parts: Mapping[str, pl.DataFrame], keys: list[str]) -> dict[str, pl.DataFrame]:
    """Keep the rows of entities that digests put into their split, by its share of the rows."""
    if missing := next((key for key in keys if key not in next(iter(parts.values()))), None):
        message = f"by={missing!r}: is no column of the training set"
        raise QuestionError(message)
    n_rows = sum(part.height for part in parts.values())
    kept, below = {}, 0.0
    for name, part in parts.items():
        above = below + part.height / max(n_rows, 1)
        entities = part.select(keys).unique(maintain_order=True)
        places = pl.Series("place", map(_place, entities.iter_rows()), pl.Float64)
        mine = entities.filter((places >= below) & (places < above))
        kept[name] = part.join(mine, keys, "semi", nulls_equal=True, maintain_order="left")
        below = above
    return kept


def _place(entity: tuple[Any, ...]) -> float:
    """Put an entity between 0 and 1, anywhere the same."""
    return int.from_bytes(hashlib.sha256(repr(entity).encode()).digest()[:6]) / 2**48
