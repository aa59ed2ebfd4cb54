"""Who may ask the running feature server and how much; it writes nothing unless it is asked to."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
import pytest
import websockets
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from feast.feature_server import get_app
from starlette.routing import Route

from feature_repo import client, online_features, store
from feature_repo.guard import ServerSettingsError, StaticTokens, checked_auth, server_settings
from feature_repo.online import apply, is_applied, materialize
from feature_repo.registry_digest import ForeignRegistryError, UncheckedRegistryError
from feature_repo.stores.server import READING
from tests.feature_repo.test_feast_cli import ROOT, free_port
from tests.feature_repo.test_watched_server import materialized
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

TOKEN, OTHER = "0123456789abcdef-one", "0123456789abcdef-two"
COUNT = "author_activity:n_records_lifetime"
ASKED = {"features": [COUNT], "entities": {"author_id": ["ann", "nobody"]}}
MAX_ROWS, MAX_BYTES, MAX_REQUESTS = 5, 20_000, 2


class Server(NamedTuple):
    """A running server, a client that trusts its certificate, and what it printed."""

    client: httpx.Client
    home: Path
    port: int
    trust: ssl.SSLContext | None
    log: Path

    def ask(self, token: str | None = None, **body: Any) -> httpx.Response:
        return self.client.post("/get-online-features", json=ASKED | body, headers=bearer(token))


def bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def running(
    home: Path, options: list[str], environment: Mapping[str, str], folder: Path
) -> Iterator[Server]:
    """Run `millrace serve` with TLS until the end of the block."""
    port, log = free_port(), folder / "log"
    cert, key = certificate(folder)
    trust = ssl.create_default_context(cafile=str(cert))
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), "--port", str(port)]
    command += ["--cert", str(cert), "--key", str(key), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=60) as client:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    client.get("/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            yield Server(client, home, port, trust, log)
    finally:
        process.terminate()
        process.wait(60)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that signs itself."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(pem(key))
    return folder / "cert.pem", folder / "key.pem"


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


# --- a server with a token, TLS, small limits, and a registry that may only be read ---


@pytest.fixture(scope="module")
def server(ann: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    home = materialized(ann, folder / "home")
    (home / "feast" / "registry.db").chmod(0o444)
    (folder / "tokens").write_text(f"{TOKEN}\n{OTHER}\n")
    environment = {
        "MILLRACE_SERVER_TOKEN_FILE": str(folder / "tokens"),
        "MILLRACE_SERVER_MAX_ROWS": str(MAX_ROWS),
        "MILLRACE_SERVER_MAX_BODY_BYTES": str(MAX_BYTES),
        "MILLRACE_SERVER_MAX_REQUESTS": str(MAX_REQUESTS),
        "MILLRACE_SERVER_BODY_SECONDS": "3",
    }
    with running(home, [], environment, folder) as found:
        yield found


@pytest.mark.service
def test_who_has_no_token_gets_health_and_nothing_else(server: Server) -> None:
    for token in (None, TOKEN[:-1], TOKEN + "x", OTHER.upper(), "ü" * 20):
        headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
        refused = server.client.post("/get-online-features", json=ASKED, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        for path in (
            "/metrics",
            "/docs",
            "/openapi.json",
            "/no/such/route",
            "/health/",
            "//health",
        ):
            assert server.client.get(path, headers=headers).status_code == 401, path
    basic = {"Authorization": f"Basic {TOKEN}"}
    assert server.client.post("/push", json={}, headers=basic).status_code == 401
    assert server.client.get("/health").status_code == 200
    for token in (TOKEN, OTHER):
        assert server.ask(token).json()["results"][-1]["values"] == [2, 0]
        assert server.client.get("/metrics", headers=bearer(token)).status_code == 200
    printed = server.log.read_text()
    assert TOKEN not in printed
    assert "401" in printed


@pytest.mark.service
def test_a_socket_needs_the_token_too(server: Server) -> None:
    async def connect() -> None:
        address = f"wss://127.0.0.1:{server.port}/ws/chat"
        async with websockets.connect(address, ssl=server.trust):
            pass

    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(connect())


@pytest.mark.service
def test_the_server_speaks_tls_alone(server: Server) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{server.port}/health")


@pytest.mark.service
def test_more_rows_than_allowed_are_refused_with_the_number(server: Server) -> None:
    def rows(n: int) -> dict[str, Any]:
        return {"author_id": ["ann"] * n}

    assert server.ask(TOKEN, entities=rows(MAX_ROWS)).status_code == 200
    refused = server.ask(TOKEN, entities=rows(MAX_ROWS + 1))
    assert refused.status_code == 422
    assert "6 rows; a request has at most 5 (MILLRACE_SERVER_MAX_ROWS)" in refused.text
    body = {"features": [COUNT], "entities": rows(MAX_ROWS + 1)}
    own = server.client.post("/features", json=body, headers=bearer(TOKEN))
    assert (own.status_code, "MAX_ROWS" in own.text) == (422, True)
    search = {"features": ["record_vector:hash_vec_256"], "query": [1.0], "top_k": MAX_ROWS + 1}
    for version in (1, 2):
        body = search | {"api_version": version}
        found = server.client.post("/search", json=body, headers=bearer(TOKEN))
        assert found.status_code == 422
        assert "MAX_ROWS" in found.text


@pytest.mark.service
def test_a_longer_body_than_allowed_is_refused_whether_it_says_so_or_not(server: Server) -> None:
    def post(content: Any) -> httpx.Response:
        headers = bearer(TOKEN) | {"Content-Type": "application/json"}
        return server.client.post("/get-online-features", content=content, headers=headers)

    body = json.dumps(ASKED).encode()
    assert post(body.ljust(MAX_BYTES)).status_code == 200
    assert post(iter([body.ljust(MAX_BYTES)])).status_code == 200  # in chunks, of no length
    for longer in (body.ljust(MAX_BYTES + 1), iter([body, b" " * MAX_BYTES])):
        refused = post(longer)
        assert refused.status_code == 413
        assert "at most 20,000 bytes (MILLRACE_SERVER_MAX_BODY_BYTES)" in refused.json()["detail"]


@pytest.mark.service
def test_requests_at_once_and_slow_bodies_are_bounded(server: Server) -> None:
    head = (
        "POST /get-online-features HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    ).encode()

    def begun() -> ssl.SSLSocket:
        assert server.trust
        plain = socket.create_connection(("127.0.0.1", server.port))
        begun = server.trust.wrap_socket(plain, server_hostname="127.0.0.1")
        begun.sendall(head)
        return begun

    slow = [begun() for _ in range(MAX_REQUESTS)]
    time.sleep(0.5)
    refused = server.ask(TOKEN)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert server.client.get("/health").status_code == 200
    for each in slow:
        assert each.recv(100).startswith(b"HTTP/1.1 408")
        each.close()
    assert server.ask(TOKEN).status_code == 200


WRITES: dict[str, tuple[str, Any]] = {
    "POST /push": ("/push", {"push_source_name": "nobody", "df": {}}),
    "POST /write-to-online-store": (
        "/write-to-online-store",
        {"feature_view_name": "author_activity", "df": {"author_id": ["ann"]}},
    ),
    "POST /materialize": (
        "/materialize",
        {"start_ts": "2025-01-01T00:00:00Z", "end_ts": "2026-03-01T00:00:00Z"},
    ),
    "POST /materialize-incremental": (
        "/materialize-incremental",
        {"end_ts": "2026-03-01T00:00:00Z"},
    ),
    "GET /chat": ("/chat", None),
    "POST /chat": ("/chat", {"messages": []}),
}
READS = {f"POST {path}" for path in ("/get-online-features", "/search", "/features")}
READS |= {"POST /retrieve-online-documents", "POST /v1/vector_stores/{vector_store_id}/search"}


def registry_of(home: Path) -> tuple[str, int, int]:
    path = home / "feast" / "registry.db"
    about = path.stat()
    return sha256(path.read_bytes()).hexdigest(), about.st_mtime_ns, about.st_ino


@pytest.mark.service
def test_no_route_writes_and_the_registry_stays_as_it_is(server: Server) -> None:
    before = registry_of(server.home)
    headers = bearer(TOKEN)
    schema = server.client.get("/openapi.json", headers=headers).json()["paths"]
    posts = {f"POST {path}" for path, methods in schema.items() if {*methods} - {"get"}}
    assert posts <= READS
    for path, body in WRITES.values():
        asked = {"json": body} if body is not None else {}
        method = "POST" if asked else "GET"
        assert server.client.request(method, path, headers=headers, **asked).status_code == 404
    assert server.client.get("/static/chat/index.html", headers=headers).status_code == 404
    assert server.ask(TOKEN).status_code == 200
    assert registry_of(server.home) == before


def test_feast_has_no_route_that_is_neither_known_to_read_nor_tried(ann: Warehouse) -> None:
    routes = [
        route for route in get_app(store(ann.settings.root)).routes if isinstance(route, Route)
    ]
    closed = {
        f"{method} {route.path}"
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
        if route.path not in READING
    }
    assert closed == WRITES.keys()
    reading = {
        f"POST {route.path}"
        for route in routes
        if "POST" in (route.methods or set()) and route.path in READING
    }
    assert reading | {"POST /features"} == READS


# --- the registry ---


@pytest.mark.service
def test_registry_of_somebody_else_is_not_run_by_the_running_server(server: Server) -> None:
    path = server.home / "feast" / "registry.db"
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(before + b"\x00")
    try:
        health = server.client.get("/health").json()
        assert "the registry in the home is not the pipeline's" in health["reason"]
        assert [server.ask(TOKEN).status_code for _ in range(3)] == [200] * 3
    finally:
        path.write_bytes(before)
    assert server.client.get("/health").json()["status"] == "ok"


def test_registry_of_somebody_else_is_refused_until_it_is_registered_again(
    ann: Warehouse, tmp_path: Path
) -> None:
    home = materialized(ann, tmp_path / "home")
    warehouse, path = Warehouse(Settings(home=home)), home / "feast" / "registry.db"
    assert is_applied(warehouse)
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(ForeignRegistryError):
        store(home).list_feature_views()
    with pytest.raises(ForeignRegistryError):
        online_features([COUNT], [{"author_id": "ann"}], home)
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home)]
    served = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert served.returncode == 1
    (line,) = served.stderr.splitlines()
    assert line.startswith(f"millrace: {path}: its SHA-256 is not in registry.sha256")
    assert not is_applied(warehouse)
    assert apply(warehouse)
    assert is_applied(warehouse)
    found = online_features([COUNT], [{"author_id": "ann"}], home)
    assert found["author_activity__n_records_lifetime"].to_list() == [2]


@pytest.fixture(params=["sqlite", "postgres"])
def in_database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings of a registry in a real database."""
    path = f"sqlite:///{tmp_path / 'registry.sqlite'}"
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_address")
        path = (
            f"postgresql+psycopg://postgres@{address.host}:{address.port}/postgres?sslmode=disable"
        )
    return {"registry_type": "sql", "path": path}


def test_registry_in_a_database_is_refused_unless_a_setting_allows_it(
    ann: Warehouse, tmp_path: Path, in_database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = materialized(ann, tmp_path / "home")
    expected = online_features([COUNT], [{"author_id": "ann"}], home)
    stated = home / "feature_store.yaml"
    settings = yaml.safe_load(stated.read_text("utf-8")) | {"registry": in_database}
    stated.write_text(yaml.safe_dump(settings), "utf-8")
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home)]
    served = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert served.returncode == 1
    (line,) = served.stderr.splitlines()
    assert line.startswith(f"millrace: {stated}: a registry of the kind sql has no digest, so ")
    mend = "set MILLRACE_UNCHECKED_REGISTRY=1 if nobody but the pipeline can write it"
    assert line.endswith(f"or {mend} [errors#unchecked-registry]")

    default = client._parsed((client.REPOSITORY / "feature_store.yaml").read_text("utf-8"))
    monkeypatch.setattr(client, "_parsed", lambda _: default | {"registry": in_database})
    warehouse = Warehouse(Settings(home=home))
    for refused in (apply, is_applied):
        with pytest.raises(UncheckedRegistryError):
            refused(warehouse)
    with pytest.raises(UncheckedRegistryError):
        store(home)
    monkeypatch.setenv("MILLRACE_UNCHECKED_REGISTRY", "1")
    shutil.rmtree(home / "feast")  # nothing of the file that was there may be needed
    assert apply(warehouse)
    assert is_applied(warehouse)
    assert not apply(warehouse)
    materialize(warehouse, datetime.now(UTC), lambda *_: None)
    assert not (home / "feast" / "registry.db").exists()
    assert online_features([COUNT], [{"author_id": "ann"}], home).equals(expected)


# --- OIDC, by an issuer of the test's own ---


class Issuer:
    """An OIDC issuer on loopback: its discovery document, its key, and tokens."""

    def __init__(self) -> None:
        self.key, self.stranger = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        keys = {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]}
        issuer = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = keys if self.path == "/keys" else issuer.document
                content = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.document = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
        }
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def token(self, key: rsa.RSAPrivateKey | None = None, kid: str = "one", **claims: Any) -> str:
        good = {"iss": self.url, "aud": "features", "sub": "model", "exp": time.time() + 300}
        return jwt.encode(good | claims, pem(key or self.key), "RS256", headers={"kid": kid})

    @property
    def unsigned(self) -> str:
        claims = {"iss": self.url, "aud": "features", "sub": "model", "exp": time.time() + 300}
        return jwt.encode(claims, None, "none", headers={"kid": "one"})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.http.shutdown()


def oidc(issuer: Issuer) -> dict[str, str]:
    url = f"{issuer.url}/.well-known/openid-configuration"
    return {"type": "oidc", "auth_discovery_url": url, "client_id": "millrace"}


@pytest.mark.service
def test_tokens_of_the_issuer_for_this_server_are_taken_and_no_others(
    ann: Warehouse, issuer: Issuer, tmp_path: Path
) -> None:
    home = materialized(ann, tmp_path / "home")
    path = home / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    auth = oidc(issuer) | {"audience": "features", "issuer": issuer.url}
    path.write_text(yaml.safe_dump(settings | {"auth": auth}))
    shared = "a-shared-secret-of-servers"
    others = {
        "none": None,
        "wrong audience": issuer.token(aud="others"),
        "no audience": issuer.token(aud=None),
        "wrong issuer": issuer.token(iss="http://127.0.0.1:1"),
        "expired": issuer.token(exp=time.time() - 60),
        "another key": issuer.token(issuer.stranger),
        "an unknown key": issuer.token(issuer.stranger, kid="two"),
        "unsigned": issuer.unsigned,
        "unsigned, from a server": jwt.encode({"preferred_username": shared}, "x" * 32),
        "signed by the public key": jwt.encode(
            {"aud": "features", "sub": "model"}, json.dumps(issuer.document), headers={"kid": "one"}
        ),
        "no token": "x.y.z",
    }
    environment = {"INTRA_COMMUNICATION_BASE64": shared}
    with running(home, ["--open-metrics"], environment, tmp_path) as server:
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/metrics").status_code == 200
        refused = {name: server.ask(token).status_code for name, token in others.items()}
        assert refused == dict.fromkeys(others, 401)
        good = issuer.token()
        for _ in range(2):  # the second is known
            assert server.ask(good).json()["results"][-1]["values"] == [2, 0]
        own = [
            server.client.post("/features", json=ASKED, headers=bearer(token))
            for token in (good, others["wrong audience"])
        ]
        assert own[0].json() == {"author_activity__n_records_lifetime": [2, 0]}
        assert own[1].status_code == 401
        short = issuer.token(exp=time.time() - 8)  # within the leeway
        assert [server.ask(short).status_code, time.sleep(3), server.ask(short).status_code] == [
            200,
            None,
            401,
        ]
        assert server.client.get("/docs").status_code == 401


# --- settings ---


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"TOKEN": "short-secret"}, "MILLRACE_SERVER_TOKEN: a token has at least 16 characters"),
        ({"TOKEN": TOKEN, "TOKEN_FILE": "tokens"}, "are both set; unset one"),
        ({"TOKEN_FILE": "no/such/file"}, "MILLRACE_SERVER_TOKEN_FILE no/such/file: cannot be read"),
        ({"TOKEN_FILE": os.devnull}, "a token has at least 16 characters"),
        ({"MAX_ROWS": "0"}, "MILLRACE_SERVER_MAX_ROWS: input should be greater than"),
    ],
)
def test_wrong_settings_are_one_line_without_the_secret(
    environment: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"MILLRACE_SERVER_{name}", value)
    with pytest.raises(ServerSettingsError, match=line) as raised:
        server_settings().tokens  # noqa: B018
    assert "short-secret" not in str(raised.value)


def test_settings_show_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_SERVER_TOKEN", TOKEN)
    settings = server_settings()
    assert settings.tokens == [TOKEN]
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert asyncio.run(StaticTokens(settings.tokens)(TOKEN))


def test_oidc_without_audience_or_issuer_or_beside_a_token_is_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.permissions.auth_model import KubernetesAuthConfig, NoAuthConfig, OidcAuthConfig

    whole = oidc(issuer) | {"audience": "features", "issuer": issuer.url}
    assert checked_auth(server_settings(), OidcAuthConfig(**whole))
    assert not checked_auth(server_settings(), NoAuthConfig())
    for name in ("audience", "issuer"):
        without = OidcAuthConfig(**{key: whole[key] for key in whole if key != name})
        with pytest.raises(ServerSettingsError, match=f"set {name}"):
            checked_auth(server_settings(), without)
    with pytest.raises(ServerSettingsError, match="kubernetes is not supported"):
        checked_auth(server_settings(), KubernetesAuthConfig(type="kubernetes"))
    monkeypatch.setenv("MILLRACE_SERVER_TOKEN", TOKEN)
    with pytest.raises(ServerSettingsError, match="unset MILLRACE_SERVER_TOKEN"):
        checked_auth(server_settings(), OidcAuthConfig(**whole))
