"""OpenLineage events of runs: what a catalog gets, and that no run fails or waits for it."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from openlineage.client import event_v2
from openlineage.client.generated.base import BaseFacet

import flows.stages
from feature_repo.client import REPOSITORY
from flows.lineage_events import sending
from flows.lineage_events.datasets import Place, of_online, of_source
from flows.lineage_events.runs import NoEvents, run_events
from flows.stages import PipelineParameters, run_plain
from transforms.errors import FileRefusedError, NoFilesError
from transforms.sources.source import Source
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Events = list[dict[str, Any]]
FEASTS_OWN = """
openlineage:
  enabled: true
  transport_type: http
  transport_url: ${OPENLINEAGE_URL}
"""
UNREAD = "a text that nobody may read"
NOTE = {"id": "a", "author": "u", "written": "2026-01-01", "text": UNREAD}


class Catalog(ThreadingHTTPServer):
    """Takes events as Marquez does."""

    def __init__(self) -> None:
        self.events: Events = []
        super().__init__(("127.0.0.1", 0), Taker)

    def taken(self) -> Events:
        """What came since it was asked last."""
        events, self.events = self.events, []
        return events


class Taker(BaseHTTPRequestHandler):
    server: Catalog

    def do_POST(self) -> None:
        assert self.path == "/api/v1/lineage"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.events.append(json.loads(body))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Catalog]:
    with Catalog() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def catalog(server: Catalog, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A catalog that the client's own variable names."""
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MILLRACE_VIEWS", "record_quality,author_activity")
    server.taken()
    return server


@pytest.fixture
def parameters(tmp_path: Path) -> PipelineParameters:
    """A source of one record."""
    (tmp_path / "good.jsonl").write_text(json.dumps(NOTE) + "\n")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    source = tmp_path / "notes.yaml"
    source.write_text(f"name: notes\nuri: '*.jsonl'\nknown: at_event\n{record}\n")
    return PipelineParameters(source=str(source), home=str(tmp_path / "home"))


def checked(events: Events) -> Events:
    """The events, which the client's own classes must take; each run ends once as it began."""
    for event in events:
        run, job = event["run"], event["job"]
        facets = [*run["facets"].values(), *job["facets"].values()]
        for dataset in [*event["inputs"], *event["outputs"]]:
            assert dataset["namespace"]
            assert dataset["name"]
            facets += [*dataset["facets"].values(), *dataset.get("outputFacets", {}).values()]
        for facet in facets:
            checked_facet(facet)
        event_v2.RunEvent(
            eventType=event_v2.RunState(event["eventType"]),
            eventTime=event["eventTime"],
            run=event_v2.Run(run["runId"]),
            job=event_v2.Job(job["namespace"], job["name"]),
            producer=event["producer"],
        )
        assert UNREAD not in json.dumps(event)
    for run_id in {event["run"]["runId"] for event in events}:
        states = [event["eventType"] for event in events if event["run"]["runId"] == run_id]
        assert states[0] == "START"
        assert len(states) == 2
    return events


def checked_facet(facet: dict[str, Any]) -> None:
    """Make the facet again by the class that its schema names, which refuses an unknown field."""
    (kind,) = (one for one in kinds(BaseFacet) if one._get_schema() == facet["_schemaURL"])
    fields = {key: value for key, value in facet.items() if not key.startswith("_")}
    kind(**fields, producer=facet["_producer"])


def kinds(kind: type[BaseFacet]) -> Iterator[type[BaseFacet]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


def ends(events: Events) -> dict[str, tuple[str, list[str], dict[str, int]]]:
    """How each job ended, what it read, and the rows that it wrote to each dataset."""
    return {
        event["job"]["name"]: (
            event["eventType"],
            [dataset["name"] for dataset in event["inputs"]],
            {
                dataset["name"]: dataset["outputFacets"]["outputStatistics"].get("rowCount")
                for dataset in event["outputs"]
            },
        )
        for event in events
        if event["eventType"] != "START"
    }


def test_each_stage_says_what_it_read_and_wrote_and_again_when_nothing_is_new(
    catalog: Catalog,
    parameters: PipelineParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "feature_store.yaml"
    file.write_text((REPOSITORY / file.name).read_text() + FEASTS_OWN)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    run_plain(parameters)
    taken, home = catalog.taken(), tmp_path / "home"
    feasts = {event["job"]["name"] for event in taken if event["producer"] == "feast"}
    assert {"feature_service_activity_v1", "materialize_millrace"} <= feasts
    events = checked([event for event in taken if event["producer"] != "feast"])
    raw, staged, quarantined = (
        f"{home}/{name}/records" for name in ("raw", "staging", "quarantine")
    )
    quality, activity = (
        f"{home}/features/{name}" for name in ("record_quality", "author_activity")
    )
    online = f"{home}/feast/online.db"

    def expected(n: int) -> dict[str, Any]:
        return {
            "notes.ingest": ("COMPLETE", [str(tmp_path)], {raw: n}),
            "notes.prepare": ("COMPLETE", [raw], {staged: n, quarantined: 0}),
            "notes.featurize.record_quality": ("COMPLETE", [staged], {quality: n}),
            "notes.featurize.author_activity": ("COMPLETE", [staged, quality], {activity: 4 * n}),
            "notes.materialize": ("COMPLETE", [activity], {online: n}),
            "notes": ("COMPLETE", [], {}),
        }

    assert ends(events) == expected(1)
    whole = events[0]["run"]["runId"]
    parents = {
        event["run"]["facets"]["parent"]["run"]["runId"]
        for event in events
        if "." in event["job"]["name"]
    }
    assert parents == {whole}
    (output,) = next(
        event["outputs"]
        for event in events
        if event["job"]["name"].endswith("record_quality") and event["eventType"] == "COMPLETE"
    )
    (data_file,) = Path(quality).glob("*.parquet")
    assert output["outputFacets"]["outputStatistics"]["size"] == data_file.stat().st_size
    columns = {field["name"]: field["type"] for field in output["facets"]["schema"]["fields"]}
    assert columns["n_words"] == "int64"
    assert output["facets"]["version"]["datasetVersion"] == "1"
    run_plain(parameters)
    assert ends(checked(catalog.taken())) == expected(0)


def test_a_failed_stage_and_its_run_say_why_without_a_text_of_a_record(
    catalog: Catalog,
    parameters: PipelineParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object) -> None:
        raise ValueError(UNREAD)

    with monkeypatch.context() as patched:
        patched.setattr(flows.stages, "prepare", failing)
        with pytest.raises(ValueError, match=UNREAD):
            run_plain(parameters)
    assert failures(checked(catalog.taken())) == {
        "notes.prepare": "ValueError",
        "notes": "ValueError",
    }
    (tmp_path / "bad.parquet").write_text("no Parquet file")
    run = PipelineParameters(**{**parameters.model_dump(), "source": other(parameters, "'*.*'")})
    with pytest.raises(FileRefusedError):
        run_plain(run)
    ((job, reason),) = failures(checked(catalog.taken())).items()
    assert job == "notes"
    assert "bad.parquet: refused" in reason
    run = PipelineParameters(**{**parameters.model_dump(), "source": other(parameters, "none.csv")})
    with pytest.raises(NoFilesError):
        run_plain(run)
    found = failures(checked(catalog.taken()))
    assert list(found) == ["notes.ingest", "notes"]
    assert "no file to load there" in found["notes"]


def failures(events: Events) -> dict[str, str]:
    return {
        event["job"]["name"]: event["run"]["facets"]["errorMessage"]["message"]
        for event in events
        if event["eventType"] == "FAIL"
    }


def other(parameters: PipelineParameters, uri: str) -> str:
    """The same source, of other files."""
    path = Path(parameters.source)
    changed = path.with_name("other.yaml")
    changed.write_text(path.read_text().replace("'*.jsonl'", uri))
    return str(changed)


def test_a_catalog_that_does_not_answer_is_not_waited_for_and_said(
    make_source: MakeSource,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.setattr(sending, "SECONDS_AT_THE_END", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with run_events(make_source("notes.csv"), warehouse, sent=True) as events:
            assert events.stage("ingest", lambda: "done") == "done"
        assert time.monotonic() - begun < 3
    assert "4 of 4 events were not sent (no answer yet)" in caplog.text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ""),
        ({"OPENLINEAGE_URL": "http://127.0.0.1:1", "OPENLINEAGE_DISABLED": "true"}, ""),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "none_such"}, "its configuration cannot be used"),
        ({"OPENLINEAGE_URL": "http://127.0.0.1:1"}, "pip install 'millrace[openlineage]'"),
    ],
)
def test_without_configuration_nothing_is_sent_and_a_wrong_one_is_one_line(
    variables: dict[str, str],
    said: str,
    make_source: MakeSource,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Feast's client leaves variables of its own
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(warehouse.settings.root))  # where nobody has a file of their own
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "pip" in said:
        monkeypatch.setattr(sending, "find_spec", lambda _: None)
    with run_events(make_source("notes.csv"), warehouse, sent=True) as events:
        assert type(events) is NoEvents
    ours = [record.message for record in caplog.records if record.name == sending.__name__]
    assert len(ours) == bool(said)
    assert said in "".join(ours)


@pytest.mark.usefixtures("catalog")
def test_who_opens_the_client_has_the_environment_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    before = dict(sending.os.environ)
    sender = sending.open_sender()
    assert sender
    sender.close()
    assert dict(sending.os.environ) == before


@pytest.mark.parametrize(
    ("uri", "more", "places"),
    [
        (
            "postgresql://ann:${LINEAGE_PASSWORD}@db/shop?sslmode=require",
            {"table": "tickets"},
            [Place("postgres://db:5432", "shop.public.tickets")],
        ),
        (
            "postgresql://db:5433/shop",
            {"query": "with old as (from desk.tickets) select * from old join mails using (id)"},
            [
                Place("postgres://db:5433", "shop.desk.tickets"),
                Place("postgres://db:5433", "shop.public.mails"),
            ],
        ),
        ("postgresql://db/shop", {"query": "no sql"}, [Place("postgres://db:5432", "shop")]),
        ("sqlite:///srv/n.db", {"table": "t"}, [Place("file", "/srv/n.db")]),
        ("bigquery://shop/desk", {"table": "t"}, [Place("bigquery", "shop.desk.t")]),
        ("mysql://ann@db/shop", {"table": "t"}, [Place("mysql://db:3306", "shop.t")]),
        ("kafka://one:9092,two:9092/tickets", {}, [Place("kafka://one:9092", "tickets")]),
        ("iceberg://desk/support.tickets", {}, [Place("iceberg://desk", "support.tickets")]),
        (
            ["s3://lake/desk/day=*/a.csv", "https://host/a.csv?sig=x"],
            {},
            [Place("s3://lake", "desk"), Place("https://host", "a.csv")],
        ),
        ("/srv/tickets/*/a.csv", {}, [Place("file", "/srv/tickets")]),
    ],
)
def test_a_source_is_named_by_where_it_is_without_a_secret(
    uri: str | list[str],
    more: dict[str, Any],
    places: list[Place],
    make_source: MakeSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINEAGE_PASSWORD", "p@ss/w#rd")
    source = make_source("notes.csv").model_copy(
        update={"uri": "\n".join(uri) if isinstance(uri, list) else uri, **more}
    )
    assert [dataset.place for dataset in of_source(source)] == places


@pytest.mark.parametrize(
    ("online", "place"),
    [
        (
            {"type": "x.RedisOnlineStore", "connection_string": "cache:6379,password=${SECRET}"},
            Place("redis://cache:6379", "shop"),
        ),
        (
            {"type": "postgres", "host": "db", "database": "online", "password": "secret"},
            Place("postgres://db:5432", "online.public.shop"),
        ),
    ],
)
def test_an_online_store_is_named_by_its_server_without_a_secret(
    online: dict[str, str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"project": "shop", "online_store": online}
    monkeypatch.setattr("flows.lineage_events.datasets.store_settings", lambda _: settings)
    assert of_online(tmp_path).place == place
