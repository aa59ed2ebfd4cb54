"""Who may ask a server of ours, and how much: a token or OIDC, bytes, rows, requests at once.

Which routes a server has belongs into `stores.server`.
"""

import asyncio
import hmac
import json
import os
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from transforms.errors import SettingsError
from transforms.home import invalid

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
Tokens: TypeAlias = Callable[[str], Awaitable[bool]]  # whether a token is known

PREFIX = "MILLRACE_SERVER_"
LEAST_TOKEN = 16  # characters
KNOWN_SECONDS = 60  # for which an OIDC token that was verified is not verified again
KNOWN_TOKENS = 1024
VERIFIERS = 4  # threads at most that ask the issuer for its keys
HEALTH, METRICS = "/health", "/metrics"


class ServerSettingsError(SettingsError):
    """The settings of a server are wrong, or do not go together."""


class ServerSettings(BaseSettings):
    """Who may ask the feature server and the consumer, and how much."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    token: SecretStr | None = Field(
        default=None, description="Token that every request has to bring; empty for none."
    )
    token_file: Path | None = Field(
        default=None,
        description="File with such tokens instead, one a line: each is taken, so that one can be "
        "replaced while clients still use the other.",
    )
    open_metrics: bool = Field(default=False, description="Answer /metrics without a token.")
    writes: bool = Field(
        default=False, description="Have Feast's routes that write, and those for show, too."
    )
    max_body_bytes: int = Field(
        default=32 << 20, ge=1, description="Bytes of one request's body; 413 beyond."
    )
    max_rows: int = Field(default=10_000, ge=1, description="Rows of one request; 422 beyond.")
    max_requests: int = Field(
        default=64,
        ge=1,
        description="Requests that a process reads or answers at once; 503 beyond, to be repeated.",
    )
    body_seconds: float = Field(
        default=30, gt=0, description="Seconds within which a body has to arrive; 408 beyond."
    )

    @property
    def tokens(self) -> list[str]:
        """The tokens that are taken; none if no token is asked for."""
        if self.token_file:
            return _checked(_lines(self.token_file), f"{PREFIX}TOKEN_FILE {self.token_file}")
        token = self.token.get_secret_value() if self.token else ""
        return _checked([token], f"{PREFIX}TOKEN") if token else []


def server_settings() -> ServerSettings:
    """Read the settings from the environment; raises `ServerSettingsError` without their values."""
    try:
        found = ServerSettings()
    except ValidationError as error:
        raise ServerSettingsError(invalid(PREFIX, error)) from None
    if found.token and found.token_file:
        message = f"{PREFIX}TOKEN and {PREFIX}TOKEN_FILE are both set; unset one"
        raise ServerSettingsError(message)
    return found


def checked_auth(settings: ServerSettings, auth: Any) -> bool:
    """Whether Feast's OIDC is configured, as it must be; `auth` is what `RepoConfig` says.

    Raises `ServerSettingsError` where audience or issuer are missing, for then a token that the
    issuer made for anybody would do, and where there are static tokens beside it.
    """
    if auth.type == "no_auth":
        settings.tokens  # noqa: B018 - raises for a file that is not there
        return False
    if auth.type != "oidc":
        message = f"feature_store.yaml: auth: {auth.type} is not supported here; use oidc"
        raise ServerSettingsError(message)
    for name in ("audience", "issuer"):
        if not getattr(auth, name):
            message = (
                f"feature_store.yaml: auth: set {name}, else tokens made for others are taken too"
            )
            raise ServerSettingsError(message)
    if settings.tokens:
        message = f"feature_store.yaml has auth: oidc; unset {PREFIX}TOKEN and {PREFIX}TOKEN_FILE"
        raise ServerSettingsError(message)
    return True


def auth_of(home: Path) -> Any:
    """Read what Feast's configuration of a home says of who may ask."""
    from feature_repo.client import REPOSITORY, store_file
    from feature_repo.importing import feast

    settings = home / "feature_store.yaml"
    file = settings if settings.is_file() else store_file()
    return feast.repo_config.load_repo_config(REPOSITORY, file).auth_config


class StaticTokens:
    """Knows some tokens, by digests that are compared in constant time."""

    def __init__(self, tokens: list[str]) -> None:
        """Take the tokens.

        >>> asyncio.run(StaticTokens(["0123456789abcdef"])("0123456789abcdef"))
        True
        """
        self._digests = [sha256(token.encode()).digest() for token in tokens]

    async def __call__(self, token: str) -> bool:
        """Whether a token is one of them."""
        given = sha256(token.encode()).digest()
        is_each = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(is_each)  # after all were compared


class OidcTokens:
    """Knows the tokens that Feast's parser verifies: signature, expiry, audience and issuer."""

    def __init__(self, parser: Any) -> None:
        """Take Feast's parser, an `OidcTokenParser`."""
        import anyio

        self._parser, self._until = parser, dict[bytes, float]()
        self._limiter = anyio.CapacityLimiter(VERIFIERS)

    async def __call__(self, token: str) -> bool:
        """Whether a token is valid; of one that was a moment ago, whether it has not expired."""
        from anyio import to_thread

        digest = sha256(token.encode()).digest()
        if self._until.get(digest, 0) > time.time():
            return True
        until = await to_thread.run_sync(self._verify, token, limiter=self._limiter)
        if until and len(self._until) >= KNOWN_TOKENS:
            self._until.clear()
        if until:
            self._until[digest] = until
        return bool(until)

    def _verify(self, token: str) -> float:
        """Verify a token, which may fetch keys; until when that holds, 0 if it is not valid."""
        import jwt
        from starlette.authentication import AuthenticationError

        try:
            asyncio.run(self._parser.user_details_from_access_token(token))
        except AuthenticationError:
            return 0
        claims = jwt.decode(token, options={"verify_signature": False})
        return min(time.time() + KNOWN_SECONDS, float(claims.get("exp", "inf")))


def known_tokens(settings: ServerSettings, auth: Any) -> Tokens | None:
    """Make what knows the tokens of a server; None where it asks for none."""
    if not checked_auth(settings, auth):
        return StaticTokens(settings.tokens) if settings.tokens else None
    from feast.permissions.auth.oidc_token_parser import OidcTokenParser

    # Feast would take an unsigned token that names what this variable has
    os.environ.pop("INTRA_COMMUNICATION_BASE64", None)
    return OidcTokens(OidcTokenParser(auth))


def tokens_of(home: Path) -> Tokens | None:
    """Make what knows the tokens of a home's servers, as the environment and Feast are set."""
    return known_tokens(server_settings(), auth_of(home))


class Authorized:
    """Answers 401 unless a request brings a token that is known; `/health` needs none."""

    def __init__(
        self,
        app: App,
        is_known: Tokens | None,
        *,
        open_metrics: bool = False,
        as_password: bool = False,
    ) -> None:
        """Take what answers, and what knows tokens; None where nobody needs one.

        With `as_password` the token may come as the password of HTTP Basic, for which a browser
        asks whoever uses it.
        """
        self._app, self._is_known, self._as_password = app, is_known, as_password
        self._open = {HEALTH, METRICS} if open_metrics else {HEALTH}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer who may ask."""
        if (
            self._is_known is None
            or scope["type"] == "lifespan"
            or scope["path"] in self._open
            or await self._is_known(_token(scope, as_password=self._as_password))
        ):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refuse(
                send,
                HTTPStatus.UNAUTHORIZED,
                "this server asks for a token: send the header Authorization: Bearer TOKEN",
                {"www-authenticate": 'Basic realm="millrace"' if self._as_password else "Bearer"},
            )


class Bounded:
    """Bounds the bytes of a body, the time that it takes to arrive, and the requests at once."""

    def __init__(self, app: App, settings: ServerSettings) -> None:
        """Take what answers and the bounds."""
        self._app, self._settings, self._n_requests = app, settings, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what is within the bounds; `/health` and `/metrics` always are."""
        if scope["type"] != "http" or scope["path"] in {HEALTH, METRICS}:
            await self._app(scope, receive, send)
        elif self._n_requests >= self._settings.max_requests:
            message = (
                f"{self._n_requests} requests are being answered, as many as {PREFIX}MAX_REQUESTS "
                "allows; ask again"
            )
            await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, message, {"retry-after": "1"})
        else:
            self._n_requests += 1
            try:
                await self._answer(scope, receive, send)
            finally:
                self._n_requests -= 1

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.body_seconds):
                body = await self._read(scope, receive)
        except ConnectionResetError:
            return
        except TimeoutError:
            message = f"the body did not arrive within {settings.body_seconds:g} seconds"
            await refuse(send, HTTPStatus.REQUEST_TIMEOUT, message, {"connection": "close"})
            return
        if body is None:
            message = (
                f"a body has at most {settings.max_body_bytes:,} bytes ({PREFIX}MAX_BODY_BYTES); "
                "split the request"
            )
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            await refuse(send, status, message, {"connection": "close"})
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """Read the body; None if it is too long, which its header may tell before."""
        most, parts, n_bytes = self._settings.max_body_bytes, list[bytes](), 0
        said = _header(scope, b"content-length")
        if said.isdigit() and int(said) > most:
            return None
        is_whole = False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            parts.append(message.get("body", b""))
            n_bytes += len(parts[-1])
            if n_bytes > most:
                return None
            is_whole = not message.get("more_body")
        return b"".join(parts)


async def refuse(send: Send, status: HTTPStatus, message: str, headers: dict[str, str]) -> None:
    """Answer a request with a reason, as FastAPI words its own."""
    content = json.dumps({"detail": message}).encode()
    described = {"content-type": "application/json", "content-length": str(len(content))}
    pairs = [(name.encode(), value.encode()) for name, value in (described | headers).items()]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def too_many_rows(n_rows: int, most: int) -> str | None:
    """Say that a request has more rows than are answered at once; None if it has not."""
    if n_rows <= most:
        return None
    return f"{n_rows:,} rows; a request has at most {most:,} ({PREFIX}MAX_ROWS): split it"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read, then what comes after it."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return parts.pop() if parts else await receive()

    return next_message


def _token(scope: Message, *, as_password: bool) -> str:
    scheme, _, token = _header(scope, b"authorization").partition(" ")
    if as_password and scheme.lower() == "basic":
        with suppress(ValueError):
            return b64decode(token).decode().partition(":")[2]
    return token.strip() if scheme.lower() == "bearer" else ""


def _header(scope: Message, name: bytes) -> str:
    found = (value for key, value in scope["headers"] if key == name)
    return str(next(found, b"").decode("latin-1"))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{PREFIX}TOKEN_FILE {path}: cannot be read ({type(error).__name__})"
        raise ServerSettingsError(message) from None
    return lines or [""]


def _checked(tokens: list[str], name: str) -> list[str]:
    if any(len(token) < LEAST_TOKEN for token in tokens):
        message = (
            f"{name}: a token has at least {LEAST_TOKEN} characters; make one with: "
            "openssl rand -hex 32"
        )
        raise ServerSettingsError(message)
    return tokens
