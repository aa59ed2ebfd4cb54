"""What a run reads and writes, by the names that OpenLineage's naming gives it.

A table of a home is named by its folder, a source by where it is, without what lets in.
"""

import glob
import json
import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from feature_repo.client import store_settings
from transforms.expressions import sealed, walk
from transforms.schemas.base import Contract
from transforms.sources.databases import expanded
from transforms.sources.source import DRIVERS, ICEBERG, Source, topic_of
from transforms.warehouse.tables import Warehouse

PORTS = {"postgresql": 5432, "mysql": 3306}
NAMES = {"postgresql": "postgres"}  # where OpenLineage's name is another than the URI's


class Place(NamedTuple):
    """What OpenLineage calls a dataset: a namespace, and a name in it."""

    namespace: str
    name: str


class Field(NamedTuple):
    """A column; the type of a source's is not known before it is read."""

    name: str
    type: str | None = None
    description: str | None = None


class Dataset(NamedTuple):
    """What is read or written: where, its columns, and which table of the home it is, if any."""

    place: Place
    fields: Sequence[Field] = ()
    relation: str | None = None


def of_table(warehouse: Warehouse, contract: type[Contract]) -> Dataset:
    """Name a table of a home, with the columns of its contract."""
    relation = contract.relation()
    address = warehouse.settings.address
    place = (
        bucket_place(f"{address}/{relation.replace('.', '/')}")
        if address
        else Place("file", str(warehouse.folder(relation)))
    )
    types = {field.name: str(field.type) for field in contract.arrow_schema()}
    fields = [
        Field(column.name, types[column.name], column.description) for column in contract.columns()
    ]
    return Dataset(place, fields, relation)


def of_source(source: Source) -> list[Dataset]:
    """Name what a source reads, with the columns that its mapping reads."""
    fields = [Field(name) for name in dict.fromkeys([*source.fields(), *source.attributes])]
    return [Dataset(place, fields) for place in dict.fromkeys(_places(source))]


def of_online(home: Path) -> Dataset:
    """Name the online store of a home: its file, or its server and Feast's project."""
    settings = store_settings(home)
    online = settings["online_store"]
    if "path" in online:
        return Dataset(Place("file", str(online["path"])))
    kind = str(online["type"]).rpartition(".")[2].removesuffix("OnlineStore").lower()
    if kind == "postgres":
        server = f"postgres://{online['host']}:{online.get('port', PORTS['postgresql'])}"
        schema = f"{online['database']}.{online.get('db_schema', 'public')}"
        return Dataset(Place(server, f"{schema}.{settings['project']}"))
    # what follows the address in Redis's form is a password, for example
    address = str(online.get("connection_string", online.get("host", ""))).partition(",")[0]
    return Dataset(Place(f"{kind}://{address.rpartition('@')[2]}", settings["project"]))


def bucket_place(address: str) -> Place:
    """Name a place in a bucket or on a web server.

    >>> bucket_place("s3://lake/desk/*/day-*.jsonl"), bucket_place("https://host/a.csv?sig=secret")
    (Place(namespace='s3://lake', name='desk'), Place(namespace='https://host', name='a.csv'))
    """
    parts = urlsplit(address)
    host, account = parts.netloc.rpartition("@")[2], os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    namespace = f"{parts.scheme}://{host}"
    if parts.scheme == "az" and account:
        namespace = f"abfss://{host}@{account}.dfs.core.windows.net"
    return Place(namespace, _fixed(parts.path).strip("/") or "/")


def _places(source: Source) -> list[Place]:
    if source.addresses:
        return [bucket_place(address) for address in source.addresses]
    if source.is_topic:
        topic = topic_of(source.uri)
        return [Place(f"kafka://{topic.hosts.partition(',')[0]}", topic.topic)]
    if found := ICEBERG.fullmatch(source.uri):
        return [Place(f"iceberg://{found[1]}", found[2])]
    if source.is_database:
        return _database_places(source)
    is_there = Path(source.uri).exists()
    return [Place("file", source.uri if is_there else _fixed(source.uri))]


def _fixed(path: str) -> str:
    """Take a path up to the first part with a wildcard."""
    return "/".join(takewhile(lambda part: not glob.has_magic(part), path.split("/")))


def _database_places(source: Source) -> list[Place]:
    """Name the tables of a database that a source reads; the database, where they are not known."""
    parts = urlsplit(expanded(source.uri)[0])
    if parts.scheme == "sqlite":
        return [Place("file", parts.path)]
    driver, within = DRIVERS[parts.scheme], [part for part in parts.path.split("/") if part]
    host = parts.netloc.rpartition("@")[2]
    if driver in PORTS and ":" not in host:
        host = f"{host or 'localhost'}:{PORTS[driver]}"
    namespace = f"{NAMES.get(driver, parts.scheme)}://{host}"
    if driver == "bigquery":
        namespace, within = "bigquery", [host, *within]
    tables = [source.table] if source.table else _tables(source.query or "")
    if driver == "postgresql":
        tables = [table if "." in table else f"public.{table}" for table in tables]
    names = [[*within, table] for table in tables] or [within]
    return [Place(namespace, ".".join(name)) for name in names]


def _tables(query: str) -> list[str]:
    """Find the tables that a query reads; none if DuckDB does not understand its dialect.

    >>> _tables("with old as (select * from desk.tickets) select * from old join mails using (id)")
    ['desk.tickets', 'mails']
    """
    with sealed() as connection:
        sql = "select json_serialize_sql($query)"
        ((text,),) = connection.execute(sql, {"query": query}).fetchall()
    nodes = list(walk(json.loads(text)))
    own = {entry["key"] for node in nodes for entry in node.get("cte_map", {}).get("map", [])}
    read = [node for node in nodes if node.get("type") == "BASE_TABLE"]
    names = {".".join(filter(None, (node["schema_name"], node["table_name"]))) for node in read}
    return sorted(names - own)
