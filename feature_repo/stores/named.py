"""Keys that a request does not give, made of its text and other columns as a run makes them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from transforms.features.registry import registry
from transforms.staging.treatment import treatments


class Named(NamedTuple):
    """Key columns that were made, those that are lists aside, and of lists all keys in a row.

    `ends` has where the keys of each row begin and end in such a column.
    """

    keys: Mapping[str, Sequence[str | None]]
    of_lists: Mapping[str, Sequence[str]]
    ends: Mapping[str, Sequence[int]]


NOTHING = Named({}, {}, {})


def named_keys(
    views: Iterable[str],
    lacking: Collection[str],
    asked: Mapping[str, Sequence[Any]],
    home: Path | None,
) -> Named:
    """Make the key columns of some views that a request lacks, where it has a text and no record.

    An entity whose expression reads what the request does not have is left out.
    """
    if not lacking or "text" not in asked or "record_id" in asked:
        return NOTHING
    from transforms.features.on_demand import entity_keys  # which plain reads do without

    declared, found = registry().views, dict[str, Sequence[Any]]()
    entities = {
        declared[view].entity.name: declared[view].entity for view in views if view in declared
    }
    for entity in entities.values():
        if not {*entity.columns} & {*lacking} <= found.keys():
            made = entity_keys(entity, asked, treatments(home) if home else {})
            found |= {name: made[name] for name in lacking if name in made}
    lists = [
        entity.columns[0]
        for entity in entities.values()
        if entity.many and entity.columns[0] in found
    ]
    return Named(
        {name: values for name, values in found.items() if name not in lists},
        {name: list(chain(*found[name])) for name in lists},
        {name: [0, *accumulate(map(len, found[name]))] for name in lists},
    )
