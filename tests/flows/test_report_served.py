"""The report over HTTP: who may ask, what is drawn when, and an open page that follows."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from feature_repo.guard import StaticTokens
from feature_repo.watching.freshness import mark_fresh
from flows.report import serving
from flows.report.serving import Report, create_app
from tests.feature_repo.test_feast_cli import free_port
from tests.flows.conftest import Ended, Warm, environment_of
from tests.flows.test_report import NOW, second_source
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import AccountedFile
from transforms.warehouse.tables import Warehouse

TOKEN = "0123456789abcdef"  # noqa: S105


@pytest.fixture
def report(warehouse: Warehouse) -> Report:
    warehouse.create(AccountedFile)
    return Report(warehouse)


def client(report: Report, **options: object) -> TestClient:
    return TestClient(create_app(report, **options), "http://127.0.0.1:6568")  # type: ignore[arg-type]


def test_the_page_is_drawn_again_once_the_home_has_changed(
    report: Report, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(serving, "chart_script", lambda _: "")
    monkeypatch.setattr(serving, "read_shown", lambda *_: None)
    monkeypatch.setattr(serving, "render", lambda *given: drawn.append(given[-1]) or given[-1])
    asked = client(report)
    first = asked.get("/")
    assert first.headers["etag"] == f'"{first.text}"'
    again = asked.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert len(drawn) == 1
    states = {first.headers["etag"]}
    for change in (
        lambda: second_source(warehouse.settings.root, "other"),
        lambda: mark_fresh(warehouse.settings.root, NOW, []),
    ):
        change()
        states.add(asked.head("/").headers["etag"])
    assert len(states) == 3
    assert len(drawn) == 1  # to be asked draws nothing
    assert asked.get("/").headers["etag"] in states
    assert len(drawn) == 2


def test_who_brings_no_token_and_who_comes_by_another_name_sees_nothing(report: Report) -> None:
    asked = client(report, is_known=StaticTokens([TOKEN]))
    refused = asked.head("/")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="millrace"'
    for wrong in (("me", "wrong-" + TOKEN), (TOKEN, "")):
        assert asked.head("/", auth=wrong).status_code == 401
    assert asked.head("/", headers={"authorization": "Basic ?"}).status_code == 401
    answer = asked.head("/", auth=("anybody", TOKEN))
    assert answer.status_code == 200
    assert {*serving.HEADERS.items()} <= {*answer.headers.items()}
    assert asked.head("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    other_site = {"host": "elsewhere.example:6568"}
    assert client(report).head("/", headers=other_site).status_code == 400


def test_the_command_refuses_to_be_reached_without_a_token(warm: Warm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    Warehouse(Settings(home=home)).create(AccountedFile)
    options = ["report", "--serve", "--home", str(home)]
    for more, words in (
        (["--host", "203.0.113.1"], "set MILLRACE_SERVER_TOKEN"),
        (["--output", "page.html"], "leave out --output"),
    ):
        ended: Ended = warm.millrace([*options, *more], tmp_path, environment_of(tmp_path))
        assert ended.returncode == 2
        assert words in ended.stderr


@pytest.fixture
def served(warm: Warm, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A home and the address of its report, which Ctrl-C ends without complaint."""
    home, port = tmp_path / "home", free_port()
    address = f"http://127.0.0.1:{port}/"
    Warehouse(Settings(home=home)).create(RawRecord)
    second_source(home, "first")
    words = ["report", "--serve", "--home", home, "--port", port]
    pid = warm.start("millrace", tmp_path, json.dumps(environment_of(tmp_path)), *words)
    try:
        while True:
            with suppress(httpx.TransportError):
                assert httpx.head(address, timeout=60).status_code == 200
                break
            time.sleep(0.1)
        yield home, address
    finally:
        os.kill(pid, signal.SIGINT)
        assert warm.wait(pid) == 0, warm.log.read_text()


def wait_until_in_place(page: Page) -> None:
    """Ask from here: the page's policy lets no string be evaluated that waits in the page."""
    distance = "e => Math.abs(e.getBoundingClientRect().top + 40)"
    for _ in range(400):
        if page.locator("#view-author_tenure").evaluate(distance) < 2:
            return
        page.wait_for_timeout(50)
    pytest.fail("the page is not where it was")


@pytest.mark.service
def test_an_open_page_follows_the_home_and_stays_where_it_was(
    browser: Browser, served: tuple[Path, str]
) -> None:
    home, address = served
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address)
    page.locator("html[data-drawn=light]").wait_for()
    page.locator("#filter").fill("author")
    page.locator("#view-author_tenure summary").click()
    page.locator("#filter").focus()
    page.locator("#view-author_tenure").evaluate("e => scrollTo(0, e.offsetTop + 40)")
    wait_until_in_place(page)
    second_source(home, "second")  # taller than before, above what is read
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#flow tr[data-source=second]")).to_have_count(1, timeout=120_000)
    expect(page.locator("#filter")).to_be_focused(timeout=120_000)
    wait_until_in_place(page)
    assert page.locator("#filter").input_value() == "author"
    assert page.locator("#view-author_tenure details").get_attribute("open") is not None
    page.close()
