"""Files in object storage and on web servers: what is new is loaded once, and failures are said."""

import gzip
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import polars as pl
import pytest

from benchmarks.servers import Address, free_port
from transforms import buckets
from transforms.engines import engine as choice
from transforms.engines.engine import Engine
from transforms.errors import NoFilesError, SourceError
from transforms.schemas.raw import RawRecord
from transforms.sources import ingest as ingest_module
from transforms.sources import objects
from transforms.sources.ingest import Ingested, ingest, pending_files
from transforms.sources.source import Source, list_files
from transforms.staging.prepare import prepare
from transforms.staging.preview import stage_heads
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
SECRET = "never-to-be-shown"  # noqa: S105
numbers = itertools.count()


class Bucket:
    """An empty bucket of its own on moto's server."""

    def __init__(self, address: Address) -> None:
        self.endpoint = f"http://{address.host}:{address.port}"
        self.name = f"bucket{next(numbers)}"
        self.uri = f"s3://{self.name}"
        self.client = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106
        )
        self.client.create_bucket(Bucket=self.name)

    def put(self, key: str, *rows: bytes) -> None:
        self.put_bytes(key, b"".join(row + b"\n" for row in rows))

    def put_bytes(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content, ACL="public-read")

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture
def bucket(s3_address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket(s3_address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 0})
    yield made
    allow_requests(made, b"inf")


def allow_requests(bucket: Bucket, n: bytes) -> None:
    """Let moto answer so many requests until it asks for a right."""
    request = Request(  # noqa: S310
        f"{bucket.endpoint}/moto-api/reset-auth", n, {"Content-Type": "text/plain"}
    )
    urlopen(request).close()  # noqa: S310


class OfThisProcess(Engine):
    """An engine whose only worker is this process."""

    @property
    def n_workers(self) -> int:
        return 1

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        return map(function, tasks)

    def close(self) -> None:
        pass


@pytest.fixture(params=["driver", "workers"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in this process, or as workers do."""
    if request.param == "workers":
        monkeypatch.setattr(choice, "FEW_BYTES", 0)
        monkeypatch.setattr(choice, "engine_of", lambda _: OfThisProcess())


def keys(source: Source) -> list[str]:
    return [file.uri.partition("://")[2].partition("/")[2] for file in list_files(source).files]


def staged(warehouse: Warehouse) -> pl.DataFrame:
    """Return what is staged, without when and from where it was loaded."""
    with connect(warehouse) as connection:
        rows = "select * exclude (load_id, source_uri, loaded_timestamp) from staging.records"
        return connection.sql(f"{rows} order by record_id, known_timestamp").pl()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("", ["a.jsonl", "day/1/b.csv", "day/2/c.jsonl.gz", "day2/ü #?.jsonl"]),
        ("/day", ["day/1/b.csv", "day/2/c.jsonl.gz"]),
        ("/day/", ["day/1/b.csv", "day/2/c.jsonl.gz"]),
        ("/a.jsonl", ["a.jsonl"]),
        ("/*.jsonl", ["a.jsonl"]),
        ("/day/*/?.csv", ["day/1/b.csv"]),
        ("/**/*.jsonl", ["a.jsonl", "day2/ü #?.jsonl"]),
        ("/day*/**", ["day/1/b.csv", "day/2/c.jsonl.gz", "day2/ü #?.jsonl"]),
        ("/day2/ü #?.jsonl", ["day2/ü #?.jsonl"]),
    ],
)
def test_a_bucket_a_folder_a_key_and_a_pattern_lead_to_their_objects(
    bucket: Bucket, make_source: MakeSource, where: str, found: list[str]
) -> None:
    for key in ("day/", "_x/d.jsonl", ".y.jsonl", "day/1/_z.csv"):
        bucket.put(key)
    for key in ("a.jsonl", "day/1/b.csv", "day/2/c.jsonl.gz", "day2/ü #?.jsonl"):
        bucket.put(key)
    source = make_source(f"{bucket.uri}{where}")
    assert keys(source) == found
    assert list_files(source).passed_over == []


def test_what_has_no_format_is_passed_over_unless_it_is_said(
    bucket: Bucket, make_source: MakeSource
) -> None:
    bucket.put("in/a.jsonl")
    bucket.put("in/b.log")
    listing = list_files(make_source(f"{bucket.uri}/in"))
    assert listing.passed_over == [
        f"{bucket.uri}/in/b.log: is not a JSONL, CSV or Parquet file by its name, skipped"
    ]
    assert keys(make_source(f"{bucket.uri}/in/*.log", format="jsonl")) == ["in/b.log"]


def test_a_list_of_addresses_is_taken_together_each_object_once(
    bucket: Bucket, make_source: MakeSource
) -> None:
    for key in ("a/1.jsonl", "b/2.jsonl"):
        bucket.put(key)
    uris = [f"{bucket.uri}/b", f"{bucket.uri}/a/1.jsonl", f"{bucket.uri}/*/1.jsonl"]
    assert keys(make_source(uris)) == ["a/1.jsonl", "b/2.jsonl"]
    with pytest.raises(SourceError, match="uri: value error, a list is of addresses"):
        make_source(["a.jsonl", "b.jsonl"])


def test_each_object_is_loaded_once_and_as_a_new_one_when_it_changes(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    bucket.put("in/a.jsonl", b"1", b"2")
    source = make_source(f"{bucket.uri}/in")
    assert ingest(source, warehouse) == Ingested(1, 2, [], [])
    version = warehouse.versions()
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])
    assert pending_files(source, warehouse).files == []
    assert warehouse.versions() == version
    bucket.put("in/b.jsonl", b"3")
    assert ingest(source, warehouse).rows_loaded == 1
    bucket.put("in/a.jsonl", b"1", b"4")  # of the same size
    assert ingest(source, warehouse).rows_loaded == 2
    sql = "select source_uri, payload from raw.records order by loaded_timestamp, row_number"
    a, b = f"{bucket.uri}/in/a.jsonl", f"{bucket.uri}/in/b.jsonl"
    assert query(sql) == [(a, b"1"), (a, b"2"), (b, b"3"), (a, b"1"), (a, b"4")]
    assert list(warehouse.settings.root.glob("tmp/*")) == []


def test_increments_equal_those_of_a_folder(
    bucket: Bucket,
    make_source: MakeSource,
    new_home: Callable[[], Warehouse],
    note: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    local, remote = new_home(), new_home()
    folder = tmp_path / "in"
    folder.mkdir()
    loads = [
        {"a.jsonl": [note("r1"), note("r2", text="two")], "b.jsonl.gz": [note("r3")]},
        {"c.jsonl": [note("r2", text="three", known="2026-02-01"), b"broken"]},
        {"a.jsonl": [note("r1"), note("r4")]},
    ]
    for load in loads:
        for name, rows in load.items():
            content = b"".join(row + b"\n" for row in rows)
            content = gzip.compress(content) if name.endswith(".gz") else content
            (folder / name).write_bytes(content)
            bucket.put_bytes(f"in/{name}", content)
        for uri, home in ((str(folder), local), (f"{bucket.uri}/in", remote)):
            source = make_source(uri)
            ingest(source, home)
            prepare(source, home)
        assert staged(local).equals(staged(remote))
    assert staged(remote).height == 5


def test_parquet_and_csv_are_read_as_from_disk(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse, tmp_path: Path, query: Query
) -> None:
    pl.DataFrame({"id": [1, 2], "text": ["x", "ü"]}).write_parquet(tmp_path / "a.parquet")
    bucket.put_bytes("in/a.parquet", (tmp_path / "a.parquet").read_bytes())
    bucket.put("in/b.csv", b"id,author,subject,written,known,text,label", b"7,,,,,,")
    assert ingest(make_source(f"{bucket.uri}/in"), warehouse) == Ingested(2, 3, [], [])
    assert query("select payload from raw.records order by source_uri, row_number") == [
        (b'{"id":1,"text":"x"}',),
        ('{"id":2,"text":"ü"}'.encode(),),
        (b"7,,,,,,",),
    ]


@pytest.mark.usefixtures("either")
def test_an_object_that_is_cut_short_is_refused_by_its_address(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse
) -> None:
    bucket.put_bytes("in/a.jsonl.gz", gzip.compress(b"1\n" * 1000)[:-8])
    bucket.put_bytes("in/b.parquet", b"no parquet")
    bucket.put("in/c.jsonl", b"1")
    done = ingest(make_source(f"{bucket.uri}/in"), warehouse)
    assert (done.files_loaded, done.rows_loaded) == (1, 1)
    assert [line.partition(": refused")[0] for line in done.refused] == [
        f"{bucket.uri}/in/a.jsonl.gz",
        f"{bucket.uri}/in/b.parquet",
    ]
    assert str(warehouse.settings.root) not in " ".join(done.refused)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("is_changed", [True, False])
def test_an_object_that_changes_between_listing_and_fetching_waits_for_the_next_run(
    bucket: Bucket,
    make_source: MakeSource,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    is_changed: bool,  # noqa: FBT001
) -> None:
    bucket.put("in/a.jsonl", b"1")
    bucket.put("in/b.jsonl", b"2")
    fetch = objects._fetch

    def late(*arguments: Any) -> Path:
        bucket.delete("in/a.jsonl")
        if is_changed:
            bucket.put("in/a.jsonl", b"3")
        return fetch(*arguments)

    source = make_source(f"{bucket.uri}/in")
    with monkeypatch.context() as patch:
        patch.setattr(objects, "_fetch", late)
        done = ingest(source, warehouse)
    said = "refused, has changed since it was listed; the next run takes it"
    assert done == Ingested(1, 1, [], [f"{bucket.uri}/in/a.jsonl: {said}"])
    assert ingest(source, warehouse).rows_loaded == int(is_changed)


def test_a_fetch_is_bounded_by_what_one_load_takes(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        bucket.put(f"in/{number}.jsonl", b"x" * 99)
    small = Warehouse(warehouse.settings.model_copy(update={"load_bytes": 200}))
    seen = []
    load = ingest_module._load

    def looking(*arguments: Any) -> tuple[int, int]:
        done = load(*arguments)
        scratch = warehouse.settings.root / "tmp"
        seen.append(sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file()))
        return done

    monkeypatch.setattr(ingest_module, "_load", looking)
    assert ingest(make_source(f"{bucket.uri}/in"), small).files_loaded == 6
    assert seen == [200, 200, 200]


def test_a_plan_looks_into_new_objects_and_writes_nothing(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse, note: Callable[..., bytes]
) -> None:
    bucket.put("in/a.jsonl", *[note(f"r{number}", written="never") for number in range(9)])
    source = make_source(f"{bucket.uri}/in")
    files = [new.file for new in pending_files(source, warehouse).files]
    (rejected,) = stage_heads(source, warehouse, files).rejections
    assert (rejected.rule, rejected.n_rows) == ("not_a_time", 9)
    assert warehouse.table(RawRecord.relation()) is None


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("s3://{0}none/in", "s3://{0}none: there is no such bucket; check `uri`, AWS_REGION and"),
        ("s3:///in", "s3:///in: names no bucket or host, e.g. s3://BUCKET/FOLDER/*.jsonl"),
        ("https://example.org/*.csv", "a web server cannot be asked which files it has; name each"),
        ("https://example.org", "a web server cannot be asked which files it has; name each"),
    ],
)
def test_each_failure_says_what_to_do(
    bucket: Bucket, make_source: MakeSource, where: str, said: str
) -> None:
    with pytest.raises(SourceError) as raised:
        list_files(make_source(where.format(bucket.name)))
    assert said.format(bucket.name) in str(raised.value)


def test_nothing_that_matches_is_said_or_only_noticed_if_something_was_loaded(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse
) -> None:
    source = make_source(f"{bucket.uri}/in/*.jsonl")
    with pytest.raises(NoFilesError, match=r"/in/\*\.jsonl: no file to load there; check `uri`"):
        ingest(source, warehouse)
    bucket.put("in/a.jsonl", b"1")
    ingest(source, warehouse)
    bucket.delete("in/a.jsonl")
    assert ingest(source, warehouse).notices == [
        f"{source.uri}: no file there now; 1 were loaded from there before"
    ]


@pytest.mark.parametrize("n_allowed", [b"0", b"1"])
def test_a_right_that_lacks_is_named_without_the_secret(
    bucket: Bucket, make_source: MakeSource, warehouse: Warehouse, n_allowed: bytes
) -> None:
    bucket.put("in/a.jsonl", b"1")
    source = make_source(f"{bucket.uri}/in/*.jsonl")
    allow_requests(bucket, n_allowed)
    try:
        said = " ".join(ingest(source, warehouse).refused)
    except SourceError as error:
        said = str(error)
    expected = {
        b"0": f"{bucket.uri}: may not be read with these credentials (InvalidAccessKeyId); they "
        "need s3:ListBucket and s3:GetObject",
        b"1": f"{bucket.uri}/in/a.jsonl: refused, may not be read with these credentials",
    }
    assert said.startswith(expected[n_allowed])
    assert SECRET not in said


def test_a_store_that_does_not_answer_and_absent_credentials_are_said(
    bucket: Bucket, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(f"{bucket.uri}/in")
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
    with pytest.raises(SourceError, match=rf"^{bucket.uri}: cannot be reached; check `uri`, the"):
        list_files(source)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", nobody)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
        with pytest.raises(SourceError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
            list_files(source)
    with pytest.raises(SourceError, match="no credentials were found; set AZURE_STORAGE_ACCOUNT"):
        list_files(make_source("az://container/in"))


def test_without_the_extra_it_is_named(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SourceError, match=r"gs://lake: .* pip install 'millrace\[cloud\]'"):
        list_files(make_source("gs://lake/in"))


@pytest.mark.parametrize(
    "uri", ["https://me:secret@example.org/a.csv", "https://example.org/a.csv?sig=secret"]
)
def test_a_secret_in_an_address_is_refused_unseen(make_source: MakeSource, uri: str) -> None:
    with pytest.raises(SourceError, match="uri: has a user's name or a query") as raised:
        make_source(uri)
    assert "secret@" not in str(raised.value)
    assert "sig=" not in str(raised.value)


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A web server without ETags, and its folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_files_of_web_servers_are_loaded_by_etag_or_time_of_change(
    bucket: Bucket,
    website: tuple[Path, str],
    make_source: MakeSource,
    warehouse: Warehouse,
    query: Query,
) -> None:
    folder, url = website
    (folder / "a b.jsonl").write_bytes(b"1\n")
    bucket.put("b.jsonl", b"2")
    uris = [f"{url}/a%20b.jsonl", f"{bucket.endpoint}/{bucket.name}/b.jsonl"]
    source = make_source(uris)
    assert ingest(source, warehouse) == Ingested(2, 2, [], [])
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])
    bucket.put("b.jsonl", b"3")
    assert ingest(source, warehouse).rows_loaded == 1
    assert query("select distinct source_uri from raw.records order by all") == [
        (uri,) for uri in sorted(uris)
    ]
    with pytest.raises(NoFilesError, match="no file to load there"):
        list_files(make_source(f"{url}/none.jsonl"))
