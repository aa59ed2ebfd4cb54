"""What a declaration must be before its expressions are bound.

Made of parts of the right type, with nothing left out.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from transforms.errors import DeclarationError
from transforms.features.aggregates import Aggregate, LastK, Percentile, TopK
from transforms.features.declare import (
    Derived,
    GroupBy,
    NearDuplicates,
    RecordSql,
    RecordView,
    Service,
    SqlView,
)
from transforms.features.entity import Entity
from transforms.features.windows import Window

OF_A_ROW = ("event_timestamp", "created_timestamp")


def refuse_shape(item: Any) -> None:
    """Raise `DeclarationError` with the first mistake in a declaration, and how to fix it.

    >>> from transforms.features import Entity, GroupBy, days
    >>> channel = Entity("channel", key="attributes->>'channel'")
    >>> refuse_shape(GroupBy("channel_mood", channel, [], [days(1)]))
    Traceback (most recent call last):
    transforms.errors.DeclarationError: aggregates is a list, such as [Count('n_records')]
    """
    if fault := next(_faults(item), None):
        raise DeclarationError(fault)


def _faults(item: Any) -> Iterator[str]:
    if isinstance(item, GroupBy | SqlView) and not isinstance(item.entity, Entity):
        yield (
            f"entity is {item.entity!r}; give it one, such as Entity('channel', "
            "key=\"attributes->>'channel'\")"
        )
    if isinstance(item, RecordSql | Derived):
        yield from _expression_faults(item.features)
    yield from _online_faults(item)
    yield from _fresh_faults(item)
    if isinstance(item, GroupBy):
        yield from _group_faults(item)
    if (
        isinstance(item, type)
        and issubclass(item, RecordView)
        and not issubclass(item, NearDuplicates)
    ):
        yield from _class_faults(item)
    for field, value in (
        ("of", getattr(item, "of", None)),
        ("features", getattr(item, "features", None)),
    ):
        if isinstance(item, Derived | Service) and isinstance(value, str):
            yield f"{field} is {value!r}; it is a list, such as [{value}]"
    if isinstance(item, Derived) and any(isinstance(view, Derived | Service) for view in item.of):
        yield (
            "reads a derived view or a service; write out what it is made of, over the views "
            "themselves"
        )


def _online_faults(item: Any) -> Iterator[str]:
    is_class = isinstance(item, type) and issubclass(item, RecordView)
    online = item.Config.metadata["online"] if is_class else getattr(item, "online", True)
    if isinstance(online, bool):
        return
    if isinstance(item, GroupBy | SqlView):
        yield (
            "online is a time, which only views of records have, since an entity's values do not "
            "expire; say online=True or online=False"
        )
    elif not isinstance(online, Window) or online.length is None:
        yield (
            f"online={online!r} is no time that a record stays online; say True, False, or a time "
            "such as days(30) or hours(6)"
        )


def _fresh_faults(item: Any) -> Iterator[str]:
    within = declared_fresh_within(item)
    if within is not None and not (isinstance(within, timedelta) and within > timedelta(0)):
        yield (
            f"fresh_within={within!r} is no time that a view may be behind; say one such as "
            "hours(2) or days(1)"
        )


def declared_fresh_within(item: Any) -> Any:
    """How far a view may be behind as it is declared, of a window its length.

    >>> from transforms.features import RecordSql, hours
    >>> declared_fresh_within(RecordSql("shape", {}, fresh_within=hours(2)))
    datetime.timedelta(seconds=7200)
    """
    is_class = isinstance(item, type) and issubclass(item, RecordView)
    within = (
        item.Config.metadata["fresh_within"] if is_class else getattr(item, "fresh_within", None)
    )
    return (within.length or within) if isinstance(within, Window) else within


def _expression_faults(features: Any) -> Iterator[str]:
    is_right = isinstance(features, Mapping) and all(
        isinstance(text, str) for item in features.items() for text in item
    )
    if not (is_right and features):
        yield (
            "features are a name and an expression each, such as {'n_commas': \"length(text) - "
            "length(replace(text, ',', ''))\"}"
        )


def _group_faults(group: GroupBy) -> Iterator[str]:
    if not isinstance(group.aggregates, list | tuple) or not group.aggregates:
        yield "aggregates is a list, such as [Count('n_records')]"
        return
    if not isinstance(group.windows, list | tuple) or isinstance(group.windows, Window):
        yield "windows is a list, such as [days(7), lifetime]"
        return
    for aggregate in group.aggregates:
        yield from _aggregate_faults(aggregate, group)


def _aggregate_faults(aggregate: Any, group: GroupBy) -> Iterator[str]:
    if not isinstance(aggregate, Aggregate):
        yield (
            f"{aggregate!r} is no aggregate; write one, such as Count('n_records') or "
            "Mean('record_quality.n_words')"
        )
        return
    name = aggregate.feature_name
    windows = (
        [aggregate.windows]
        if isinstance(aggregate.windows, Window)
        else [*(aggregate.windows or group.windows)]
    )
    if not windows:
        yield (
            f"{name}: has no window; say windows=[days(7), lifetime], of the group or of this "
            "aggregate"
        )
    if other := next((window for window in windows if not isinstance(window, Window)), None):
        yield f"{name}: {other!r} is no window; write days(7), hours(6), minutes(30) or lifetime"
    if isinstance(aggregate, Percentile) and not 0 <= aggregate.q <= 1:
        yield f"{name}: q={aggregate.q} is no quantile; it is from 0 to 1, 0.5 is the median"
    if isinstance(aggregate, LastK | TopK) and aggregate.k < 1:
        yield f"{name}: k={aggregate.k} is no length of a list; it is 1 or more"


def _class_faults(item: type[RecordView]) -> Iterator[str]:
    if item.compute is RecordView.compute:
        yield (
            "has no compute; write a static method compute(records) that gives the features of "
            "records"
        )
    if {column.name for column in item.columns()} == {"record_id", *OF_A_ROW}:
        yield 'has no feature; write one, such as n_commas: int = Field.count("Commas.")'
