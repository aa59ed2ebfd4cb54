"""Entities: what features are of."""

from collections.abc import Sequence
from dataclasses import dataclass

from transforms.errors import DeclarationError
from transforms.expressions import bound, dotted_references, quoted


@dataclass(frozen=True)
class Entity:
    """What features are of: an author, a channel, a product.

    Its key is made of a record by SQL, and is text.

    `key` is one expression over a record, or several, which together identify an entity.
    With `many` it is a list, and a record counts for each of its distinct entities. The key column
    is named as the entity unless `join_key` says otherwise; of several keys each has a column of
    its own. A record for which a key is null counts for no entity.

    >>> Entity("channel", key="attributes->>'channel'").keys
    {'channel': "attributes->>'channel'"}
    >>> Entity("author_in_subject", key=["subject_id", "author_id"]).keys
    {'subject_id': 'subject_id', 'author_id': 'author_id'}
    """

    name: str
    key: str | Sequence[str]
    description: str = ""
    many: bool = False
    join_key: str | Sequence[str] = ()

    @property
    def keys(self) -> dict[str, str]:
        """The key columns with their expressions.

        Raises `DeclarationError` where a column would have no name.
        """
        expressions = [self.key] if isinstance(self.key, str) else list(self.key)
        columns = [self.join_key] if isinstance(self.join_key, str) else list(self.join_key)
        columns = columns or ([self.name] if len(expressions) == 1 else expressions)
        wrong = next((column for column in columns if not column.isidentifier()), None)
        if (
            wrong is not None
            or len(columns) != len(expressions)
            or len(set(columns)) != len(columns)
        ):
            message = (
                f"entity {self.name}: {len(expressions)} keys need as many column names; say "
                "join_key=[...]"
            )
            raise DeclarationError(message)
        if self.many and len(expressions) > 1:
            message = f"entity {self.name}: a list-valued entity has one key; make one list of all"
            raise DeclarationError(message)
        return dict(zip(columns, expressions, strict=True))

    @property
    def columns(self) -> list[str]:
        """The key columns."""
        return list(self.keys)

    @property
    def sql(self) -> str:
        """SQL of `entity_id` over a record: the key, of several a struct of them.

        Null where it has none; of `many` the list.
        """
        keys = [bound(expression) for expression in self.keys.values()]
        if self.many:
            return f"list_distinct({keys[0]}::varchar[])"
        if len(keys) == 1:
            return f"{keys[0]}::varchar"
        fields = ", ".join(
            f"{quoted(column)} := {key}::varchar"
            for column, key in zip(self.keys, keys, strict=True)
        )
        return (
            f"case when {' and '.join(f'{key} is not null' for key in keys)} then "
            f"struct_pack({fields}) end"
        )

    @property
    def row_sql(self) -> str:
        """SQL of `entity_id` over any record, a row for each of its entities.

        Null where the key cannot be made of it.
        """
        return f"unnest(try({self.sql}))" if self.many else f"try({self.sql})"

    @property
    def references(self) -> set[tuple[str, ...]]:
        """The columns that the key is made of, `(column,)` or `(view, column)`."""
        return {reference for key in self.keys.values() for reference in dotted_references(key)}

    @property
    def id_of_columns(self) -> str:
        """SQL of `entity_id` over a row with the key columns."""
        if len(self.columns) == 1:
            return quoted(self.columns[0])
        fields = ", ".join(f"{quoted(column)} := {quoted(column)}" for column in self.columns)
        return f"struct_pack({fields})"

    @property
    def columns_of_id(self) -> str:
        """SQL of the key columns over a row with `entity_id`."""
        if len(self.columns) == 1:
            return f"entity_id as {quoted(self.columns[0])}"
        return ", ".join(
            f"entity_id.{quoted(column)} as {quoted(column)}" for column in self.columns
        )
