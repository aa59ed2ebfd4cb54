"""What became of posted records: how many are staged, which are rejected and why."""

from collections.abc import Sequence
from typing import NamedTuple

from transforms.schemas.staging import AccountedFile, QuarantinedRecord
from transforms.sources.source import Source
from transforms.sql import model
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse


class Rejected(NamedTuple):
    """A rejected row: its position in the post, the column and the rule that it breaks."""

    row: int
    column: str
    rule: str


class Outcome(NamedTuple):
    """What became of the rows of a post."""

    n_staged: int
    n_duplicates: int
    n_quarantined: int
    rejected: list[Rejected]


class Since(NamedTuple):
    """Versions of the tables after which posts were staged; -1 reads all that was ever staged."""

    accounts: int = -1
    quarantine: int = -1


EVER = Since()


def versions_before(warehouse: Warehouse) -> Since:
    """Return the versions of now, to ask later what became of posts staged after them."""
    return Since(
        warehouse.version(AccountedFile.relation()), warehouse.version(QuarantinedRecord.relation())
    )


def outcomes(
    source: Source, warehouse: Warehouse, uris: Sequence[str], since: Since = EVER
) -> dict[str, Outcome]:
    """Find what became of posts, by their `source_uri`; a post that is not staged is left out."""
    with connect(warehouse, of=()) as connection:
        for name, contract, version in (
            ("accounts", AccountedFile, since.accounts),
            ("quarantined", QuarantinedRecord, since.quarantine),
        ):
            files = warehouse.files(contract.relation(), version)
            create_view(connection, name, files, contract.arrow_schema())
        asked = {"source": source.name, "uris": list(uris)}
        rejected: dict[str, list[Rejected]] = {}
        for uri, *row in connection.sql(model("staging/post_rejects"), params=asked).fetchall():
            rejected.setdefault(uri, []).append(Rejected(*row))
        accounts = connection.sql(model("staging/post_accounts"), params=asked).fetchall()
    return {
        uri: Outcome(staged, duplicates, quarantined, rejected.get(uri, []))
        for uri, staged, duplicates, quarantined in accounts
    }
