"""What a training set is asked for: of what, at which instants, and what to predict."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from transforms.errors import QuestionError

if TYPE_CHECKING:
    from transforms.features.windows import Window

Take: TypeAlias = Literal["any", "count", "next", "own"]
Instant: TypeAlias = datetime | str
EACH_RECORD = "each record"
GRIDS = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}
POSITIVE = "any positive record"


@dataclass(frozen=True)
class Label:
    """What is to be predicted, as `label` makes it."""

    condition: str
    horizon: timedelta
    take: Take
    negatives: float | None
    known_until: Instant | None

    def _repr_html_(self) -> str:
        from transforms.pages.notebook import fragment

        return fragment("Label", self.facts())

    def facts(self) -> list[tuple[str, Any]]:
        """What it is, in the words of `label`."""
        condition = POSITIVE if self.condition == "is_positive" else self.condition
        named = [
            ("condition", condition),
            ("within", str(self.horizon).removesuffix(", 0:00:00")),
            ("take", self.take),
        ]
        return [*named, *_given(negatives=self.negatives, known_until=self.known_until)]


@dataclass(frozen=True)
class Question:
    """The rows of a training set before they have features, as `spine` makes it."""

    of: tuple[str, ...]
    at: str
    since: Instant | None
    until: Instant | None
    sample: float | None
    per_entity: int | None
    seed: int
    label: Label | None

    def _repr_html_(self) -> str:
        from transforms.pages.notebook import fragment

        bounds = _given(
            since=self.since, until=self.until, sample=self.sample, per_entity=self.per_entity
        )
        label = self.label.facts() if self.label else []
        of = ("of", ", ".join(self.of))
        return fragment("Rows of a training set", [of, ("at", self.at), *bounds, *label])


def label(
    condition: str = POSITIVE,
    *,
    within: "timedelta | Window",
    take: Take = "any",
    negatives: float | None = None,
    known_until: Instant | None = None,
) -> Label:
    """Say what to predict at an instant T: what becomes known in (T, T + `within`].

    `condition` is SQL over a record, as an entity's key is, or `"any positive record"`. What is
    taken of the records of the row's entity:

    - `any`: whether one begins to meet the condition after T, and meets it at the horizon's end.
    - `count`: how many do.
    - `next`: the value of `condition` of the first that becomes known after T.
    - `own`: the value of `condition` of the row's own record, as known at the horizon's end.

    Later corrections and deletions count up to the end of the horizon, nothing after it does. Rows
    whose horizon ends after what the home knows are left out. That is the newest `known_timestamp`,
    of several sources the earliest of theirs; `known_until` says another, where a source has ended.

    `negatives=3` keeps three negative rows for each positive one, and adds the column `weight`.

    >>> from transforms.features import days
    >>> label("label = 'urgent'", within=days(7)).horizon.days
    7
    """
    horizon = within if isinstance(within, timedelta) else within.length
    if not horizon or horizon <= timedelta(0):
        message = "within: a label needs a horizon longer than nothing; say within=days(30)"
        raise QuestionError(message)
    if take not in get_args(Take):
        message = f"take={take!r}: is no way to take a label; say {', '.join(get_args(Take))}"
        raise QuestionError(message)
    if negatives is not None and (take in {"count", "next"} or negatives <= 0):
        message = (
            f"negatives={negatives}: is a number above 0 of negative rows for each positive one, "
            "and needs a label of true and false (take='any' or 'own')"
        )
        raise QuestionError(message)
    sql = "is_positive" if condition == POSITIVE else condition
    return Label(sql, horizon, take, negatives, known_until)


def spine(
    of: str | tuple[str, ...] | list[str] = "record",
    at: str = EACH_RECORD,
    *,
    since: Instant | None = None,
    until: Instant | None = None,
    sample: float | None = None,
    per_entity: int | None = None,
    seed: int = 0,
    label: Label | None = None,
) -> Question:
    """Ask for the rows of a training set: entities and instants, and maybe a label.

    `of` is a declared entity. With `"each record"` a row is a record at the instant it takes
    effect, and further entities of the same record may follow: `of=["subject", "author"]`. With
    `"daily"` and `"weekly"` a row is an entity at midnight UTC, of each day or Monday after its
    first record took effect. `at` may also be SQL over the warehouse, with `event_timestamp`: with
    the entity's key columns its rows are the rows, without them they are instants for all entities.

    Instants are in [`since`, `until`). `per_entity` is the most rows of one entity; `sample` a
    share of the rows (0.1) or the most rows (10_000). Both draw by digests of key, instant and
    `seed`: the same home gives the same rows.

    >>> spine("subject", at="weekly", since="2026-01-05", per_entity=4).at
    'weekly'
    """
    named = (of,) if isinstance(of, str) else tuple(of)
    is_sql = len(at.split()) > 1 and at != EACH_RECORD
    if not is_sql and at not in {EACH_RECORD, *GRIDS}:
        message = f"at={at!r}: say {EACH_RECORD!r}, {', '.join(map(repr, GRIDS))}, or SQL"
        raise QuestionError(message)
    if not named or (len(named) > 1 and at != EACH_RECORD):
        message = (
            f"of={list(named)}: rows are of one entity; only at={EACH_RECORD!r} are there keys of "
            "several. For both of two keys declare an entity of both"
        )
        raise QuestionError(message)
    if label and label.take == "own" and at != EACH_RECORD and named != ("record",):
        message = f"take='own': a row has its own record with at={EACH_RECORD!r} or of='record'"
        raise QuestionError(message)
    if sample is not None and sample <= 0:
        message = f"sample={sample}: is a share of the rows, up to 1, or the most rows"
        raise QuestionError(message)
    if per_entity is not None and per_entity < 1:
        message = f"per_entity={per_entity}: is the most rows of an entity, at least 1"
        raise QuestionError(message)
    return Question(named, at, since, until, sample, per_entity, seed, label)


def _given(**facts: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in facts.items() if value is not None]
