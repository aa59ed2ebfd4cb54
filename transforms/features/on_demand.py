"""Features of a text in a request: by the kernels of a run, and nothing is stored.

What a run would quarantine is refused with its reason. Feast, HTTP and entities do not belong here.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa

from transforms.errors import RefusedTextError
from transforms.expressions import sealed
from transforms.features.aggregates import INSTANT
from transforms.features.engine.kernels import KEY, given_name
from transforms.features.entity import Entity
from transforms.features.registry import registry, view_of
from transforms.features.view import View
from transforms.home import settings_of
from transforms.instants import instants_of
from transforms.staging.treatment import refusal
from transforms.text.pii import mask

Columns = Mapping[str, Sequence[Any]]
OTHERS, NAMED = ("label", "attributes"), ("author_id", "subject_id")


def on_demand_views() -> dict[str, View]:
    """The views that a request can be asked for, by name, each after those that it reads.

    >>> "record_quality" in on_demand_views(), "record_duplicates" in on_demand_views()
    (True, True)
    """
    return {name: view for name, view in registry().views.items() if view.is_on_demand}


def carried(view: View) -> list[str]:
    """The columns that a request must have for a view.

    >>> carried(on_demand_views()["record_quality"])
    ['text']
    """
    own = {"text", *(name for name in view.columns_read if "." not in name)} - {"text_redacted"}
    return sorted(own.union(*(carried(view_of(name)) for name in view.reads)))


def requested(request: Columns, treatment: Mapping[str, str]) -> pl.DataFrame:
    """Bring a request into the columns of versions in effect, with the row's number as its key.

    `treatment` says which sources of the home redact texts; where they differ, the request says its
    `source`. Raises `RefusedTextError` for a text that a run would quarantine.

    >>> requested({"text": ["write to ann@example.org"]}, {"mail": "redact"})["text"].item()
    'write to <EMAIL_ADDRESS>'
    """
    n_texts, now = len(request["text"]), datetime.now(UTC)
    texts = _texts(request, treatment)
    given = {name: list(map(_as_text, request[name])) for name in OTHERS if name in request}
    at = instants_of(request.get("event_timestamp", [now] * n_texts), "event_timestamp")
    instants = pl.Series("event_timestamp", at, INSTANT)
    instants = instants.fill_null(now) if instants.null_count() else instants
    return pl.DataFrame(
        [
            pl.Series("record_id", map(str, range(n_texts)), pl.String),
            instants,
            instants.alias("created_timestamp"),
            instants.alias("written_timestamp"),
            pl.Series("text", texts, pl.String),
            *(pl.Series(name, values, pl.String) for name, values in given.items()),
        ]
    )


def compute(view: View, versions: pl.DataFrame, home: Path | None = None) -> pl.DataFrame:
    """Compute a view's features of what was `requested`, a row for each; a null text has nulls.

    `home` is the one that is asked. Raises `GateError` where the features break the view's
    contract, as a run does.

    >>> versions = requested({"text": ["Is it safe?", None]}, {})
    >>> compute(on_demand_views()["record_quality"], versions)["n_words"].to_list()
    [3, None]
    """
    names = dict.fromkeys((*KEY, "text", *map(given_name, view.columns_read)))
    if "text_redacted" in names:
        redacted = mask(versions["text"].to_list())
        versions = versions.with_columns(text_redacted=pl.Series(redacted, dtype=pl.String))
    for name in view.reads:
        found = compute(view_of(name), versions, home)
        versions = versions.with_columns(
            found[feature].alias(given_name(f"{name}.{feature}"))
            for feature in found.columns[len(KEY) :]
        )
    return view.contract.gate(view.of_request(versions[list(names)], home))


def entity_keys(
    entity: Entity, request: Columns, treatment: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Make an entity's keys of a request by the entity's own expression; none if it reads more.

    An entity of which a record may name several (`many`) has a list for each row, in order. The
    record has an id that no other has, and its text is treated as `requested` does.

    >>> channel = Entity("channel", key="attributes->>'channel'")
    >>> entity_keys(channel, {"text": ["Hi"], "attributes": ['{"channel": "mail"}']}, {})
    {'channel': ['mail']}
    >>> tag = Entity("tag", key="regexp_extract_all(text, '#([a-z]+)', 1)", many=True)
    >>> entity_keys(tag, {"text": ["#b or #a", "none", None]}, {})
    {'tag': [['a', 'b'], [], []]}
    """
    n_rows, reads = len(request["text"]), {name for name, *_ in entity.references}
    if not reads <= {"record_id", *({*NAMED, *OTHERS, "text"} & request.keys())}:
        return {}
    given = {name: list(map(_as_text, request[name])) for name in reads - {"record_id", "text"}}
    given |= {"text": _texts(request, treatment)} if "text" in reads else {}
    given |= {"record_id": [uuid4().hex for _ in range(n_rows)]}
    columns = {name: pa.array(values, pa.string()) for name, values in given.items()}
    with sealed(preserve_insertion_order="true") as connection:
        connection.register("request", pa.table(columns))
        keys = f"select try({entity.sql}) as entity_id from request"
        found: pl.DataFrame = connection.sql(f"select {entity.columns_of_id} from ({keys})").pl()
    made = found.to_dict(as_series=False)
    return {name: list(map(_sorted, keys)) for name, keys in made.items()} if entity.many else made


def _sorted(keys: Sequence[str | None] | None) -> list[str]:
    return sorted(key for key in keys or () if key is not None)


def _texts(request: Columns, treatment: Mapping[str, str]) -> list[str | None]:
    texts = request["text"]
    return _treated(texts, request.get("source", [None] * len(texts)), treatment)


def _treated(
    texts: Sequence[Any], sources: Sequence[Any], treatment: Mapping[str, str]
) -> list[str | None]:
    """Treat texts as the home's sources do, which may redact them."""
    max_bytes, ways = settings_of().max_record_bytes, {*treatment.values()}
    for row, (text, source) in enumerate(zip(texts, sources, strict=True), start=1):
        if text is not None and (rule := refusal(text, max_bytes)):
            message = f"row {row}: text: {rule}; a run would quarantine it, so it has no features"
            raise RefusedTextError(message)
        if len(ways) > 1 and source not in treatment:
            message = (
                f"row {row}: some sources of this home redact texts and some keep them; say in "
                f"a column source which this text is like: {', '.join(sorted(treatment))}"
            )
            raise RefusedTextError(message)
    if ways <= {"keep"}:
        return list(texts)
    redacted = mask(texts)
    return [
        new if ways == {"redact"} or treatment[source] == "redact" else text
        for text, new, source in zip(texts, redacted, sources, strict=True)
    ]


def _as_text(value: Any) -> str | None:
    """A value as staging has it: text, and of anything else its JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
