"""The report over HTTP: drawn again once its home has changed, for who may ask."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import PlainTextResponse

from feature_repo.guard import Authorized, Tokens
from feature_repo.watching.freshness import late_views
from flows.history import history_path
from flows.report.data import read_shown
from flows.report.page import chart_script, render
from transforms.errors import MillraceError
from transforms.features.registry import registry
from transforms.warehouse.tables import Warehouse

LOOPBACK = ("127.0.0.1", "localhost")
HEADERS = {
    "cache-control": "private, no-cache",
    "content-security-policy": "frame-ancestors 'none'",  # the page has the rest itself
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # what is searched is in the address
    "x-content-type-options": "nosniff",
}


class Drawn(NamedTuple):
    """A page, and the state of the home that it shows."""

    state: str
    page: bytes


class Report:
    """The report of a home, drawn at the first request after a change."""

    def __init__(self, warehouse: Warehouse) -> None:
        """Take a home."""
        self._warehouse, self._drawing, self._drawn = warehouse, Lock(), Drawn("", b"")

    def state(self) -> str:
        """Digest what the page depends on: versions of tables, files of state, who is late."""
        home = self._warehouse.settings.root
        late = [item.view for item in late_views(home, datetime.now(UTC))]
        seen = [self._warehouse.versions(), sorted(_changes(home)), late]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]

    def drawn(self) -> Drawn:
        """Draw the page, unless it has been drawn of this state; several who ask wait for one."""
        with self._drawing:
            state = self.state()
            if state != self._drawn.state:
                shown = read_shown(self._warehouse, datetime.now(UTC))
                page = render(shown, chart_script(self._warehouse.settings.root), state)
                self._drawn = Drawn(state, page.encode())
            return self._drawn


def create_app(
    report: Report, is_known: Tokens | None = None, hosts: Sequence[str] = LOOPBACK
) -> FastAPI:
    """Make the application, which answers under some names of the host only ("*": under any).

    Else a page of another site, whose name leads to this machine, could read the report.
    `is_known` knows the tokens of those who may ask; a browser asks for one as a password.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(Authorized, is_known=is_known, as_password=True)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_exception_handler(MillraceError, _explain)

    @app.head("/")
    def head_page() -> Response:
        """Say of which state the page would be, without drawing it."""
        return Response(headers=HEADERS | {"etag": f'"{report.state()}"'}, media_type="text/html")

    @app.get("/")
    def get_page(request: Request) -> Response:
        """Answer the page; 304 where the browser has it."""
        drawn = report.drawn()
        headers = HEADERS | {"etag": f'"{drawn.state}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(drawn.page, headers=headers, media_type="text/html")

    return app


def _changes(home: Path) -> Iterator[tuple[str, int]]:
    """When each file last changed of which the page shows something, beside the tables."""
    state = [history_path(home), *(home / "feast").glob("*.json"), home / "feast" / "registry.db"]
    for path in [*state, *home.glob("locks/*/lock.json"), *registry().paths.values()]:
        with suppress(FileNotFoundError):
            yield str(path), path.stat().st_mtime_ns


async def _explain(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503, HEADERS)
