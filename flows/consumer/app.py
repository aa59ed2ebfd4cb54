"""The HTTP routes of the consumer: post records, ask what became of them, see how it is."""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from feature_repo.guard import Authorized, Tokens
from flows.consumer.follower import Follower
from flows.consumer.intake import BusyError, Committer, Queue
from flows.consumer.passes import Passes, StoppedError
from flows.stages import PipelineParameters
from transforms.errors import MillraceError, PostError
from transforms.sources.posts import Intake, Post, Taken, find_post, read_post
from transforms.sources.source import Source
from transforms.staging.outcomes import Outcome, outcomes
from transforms.warehouse.tables import Warehouse

MAX_REJECTED = 100
Wait = Literal["raw", "staged", "online"]
Seconds = Annotated[float, Query(gt=0, le=300)]
IdempotencyKey = Annotated[
    str | None, Header(description="Names the post: the same key again loads nothing again.")
]


class Consumer:
    """Takes posts of one source into one home, and runs the stages on them."""

    def __init__(self, source: Source, parameters: PipelineParameters, max_bytes: int) -> None:
        """Take a source, what a run is asked to do, and the bytes that may wait."""
        self.source, self.settings, self.max_bytes = source, parameters.settings(), max_bytes
        self.queue = Queue(max_bytes)
        intake = Intake(source, Warehouse(self.settings))
        self.passes = Passes(parameters, source, intake.end_load)
        self._committer = Committer(self.queue, intake, self.passes.arrived)
        self._follower = (
            Follower(source, Warehouse(self.settings), intake, self.passes.arrived)
            if source.is_topic
            else None
        )

    def start(self) -> None:
        """Begin to commit and to run passes."""
        self._committer.start()
        if self._follower:
            self._follower.start()
        self.passes.start()

    def stop(self) -> None:
        """Commit what waits, and end after the pass under way; the next start goes on there."""
        self.queue.close()
        if self._follower:
            self._follower.close()
            self._follower.join()
        self._committer.join()
        self.passes.close()
        self.passes.join()

    def find(self, key: str) -> Taken | None:
        """Find where the rows of a key are in raw."""
        return find_post(self.source, Warehouse(self.settings), key)

    def outcome(self, uri: str) -> Outcome | None:
        """Read from the tables what became of a post's rows; None if it is not staged."""
        return outcomes(self.source, Warehouse(self.settings), [uri]).get(uri)

    def state(self) -> dict[str, Any]:
        """Describe how far raw is staged and served, and what stops it."""
        return {
            "source": self.source.name,
            "raw_version": Warehouse(self.settings).version("raw.records"),
            "staged_version": self.passes.versions["staged"],
            "online_version": self.passes.versions["online"],
            "passes": self.passes.n_passes,
            "stopped": self.passes.trouble or (self._follower and self._follower.trouble),
        }


def create_app(consumer: Consumer, is_known: Tokens | None = None) -> FastAPI:
    """Make the application, which starts the consumer and stops it at its end.

    `is_known` knows the tokens of those who may ask; without it nobody needs one.
    """

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        consumer.start()
        yield
        await run_in_threadpool(consumer.stop)

    app = FastAPI(title="millrace consume", lifespan=run)
    app.add_middleware(Authorized, is_known=is_known)
    app.add_exception_handler(MillraceError, _explain)

    @app.post("/records")
    async def post_records(
        request: Request,
        idempotency_key: IdempotencyKey = None,
        wait: Wait = "staged",
        timeout: Seconds = 10.0,  # noqa: ASYNC109 - the client's, and the answer says how far it got
    ) -> Response:
        """Take records, one JSON object a line; answer once they are in raw, or further."""
        body = await _read_body(request, consumer.max_bytes)
        post = read_post(idempotency_key or f"unnamed-{uuid.uuid4().hex}", body)
        taken = await asyncio.wrap_future(consumer.queue.offer(post))
        if taken.digest != post.digest:
            message = f"key {post.key} was used for other records; give each post a key of its own"
            raise HTTPException(422, message)
        return await _answer(consumer, post, taken, wait, timeout)

    @app.get("/records/{key:path}")
    async def get_records(key: str) -> Response:
        """Say what became of the records of a key."""
        taken = await run_in_threadpool(consumer.find, key)
        if taken is None:
            raise HTTPException(404, f"raw has no records of key {key}: post them, with this key")
        uri = read_post(key, b"{}").uri
        return _described(consumer, key, taken, await run_in_threadpool(consumer.outcome, uri))

    @app.get("/health")
    async def get_health() -> Response:
        """Say how far raw is staged and served; 503 if the stages are stopped."""
        state = await run_in_threadpool(consumer.state)
        return JSONResponse(state, 503 if state["stopped"] else 200)

    return app


async def _read_body(request: Request, max_bytes: int) -> bytes:
    parts, n_bytes = [], 0
    async for part in request.stream():
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > max_bytes:
            raise HTTPException(413, f"a post has at most {max_bytes:,} bytes; split it")
    return b"".join(parts)


async def _answer(
    consumer: Consumer, post: Post, taken: Taken, wait: Wait, seconds: float
) -> Response:
    """Wait for a stage as long as the client does, then describe what became of the post."""
    if wait == "raw":
        return _described(consumer, post.key, taken, None)
    future = consumer.passes.wait_for(wait, post.uri, taken)
    if future is None:
        outcome = await run_in_threadpool(consumer.outcome, post.uri)
        return _described(consumer, post.key, taken, outcome)
    outcome = await _within(future, seconds)
    return _described(consumer, post.key, taken, outcome)


async def _within(future: Future[Outcome], seconds: float) -> Outcome | None:
    """Wait for an outcome; None if it takes longer, or the stages are stopped."""
    with suppress(TimeoutError, StoppedError):
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
    return None


def _described(consumer: Consumer, key: str, taken: Taken, outcome: Outcome | None) -> JSONResponse:
    """Describe a post: 200 if its rows are staged, 202 if they are in raw only."""
    is_online = outcome is not None and taken.version <= consumer.passes.versions["online"]
    content: dict[str, Any] = {
        "key": key,
        "load_id": taken.load_id,
        "reached": "online" if is_online else "staged" if outcome else "raw",
        "read": taken.n_rows,
    }
    if outcome is None:
        return JSONResponse({**content, "stopped": consumer.passes.trouble}, 202)
    content |= {
        "staged": outcome.n_staged,
        "duplicates": outcome.n_duplicates,
        "quarantined": outcome.n_quarantined,
        "rejected": [row._asdict() for row in outcome.rejected[:MAX_REJECTED]],
    }
    return JSONResponse(content)


async def _explain(_: Request, error: Exception) -> JSONResponse:
    """Answer an error with its line: 429 if there is no room, 400 for the post, else 503."""
    content = {"detail": str(error)}
    if isinstance(error, PostError):
        return JSONResponse(content, 400)
    if isinstance(error, BusyError):
        return JSONResponse(content, 429, {"Retry-After": str(math.ceil(error.seconds))})
    return JSONResponse(content, 503, {"Retry-After": "5"})
