"""Buckets, containers and web servers: how one is opened, and what its failures mean.

Credentials, endpoint and region are the environment's, by the names that each cloud's own tools
have. A failure is said without what the store answered, which may contain them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import environ
from typing import TYPE_CHECKING, Any, NamedTuple

from transforms.errors import MillraceError, SourceError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

UNLISTED = {"http", "https"}
RETRIES = {"max_retries": 4}
WAITS: dict[str, Any] = {"connect_timeout": "10s", "timeout": "10m"}
ADDRESS = re.compile(r"(?P<root>(?P<scheme>s3|gs|az|https?)://(?P<bucket>[^/]+))(?:/(?P<key>.*))?")
# what stores answer
CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"status code: (\d{3} [A-Z][A-Za-z ]+)")
DENIED = re.compile(r"PermissionDenied|Unauthenticated|40[13] \w+")
NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|404 Not Found")
ELSEWHERE = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|LOCATION")
# where a client without credentials asks the machine that it runs on, or what it lacks
NO_CREDENTIALS = re.compile(
    r"/latest/(api|meta-data)|/computeMetadata/|/metadata/identity"
    r"|Account must be|Missing\w*(Key|Secret)"
)


class _Cloud(NamedTuple):
    """What a person sets to reach a store, and what they need to be allowed."""

    credentials: str
    place: str
    rights: str


CLOUDS = {
    "s3": _Cloud(
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public one",
        "AWS_REGION and AWS_ENDPOINT_URL",
        "s3:ListBucket and s3:GetObject",
    ),
    "gs": _Cloud(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "storage.objects.list and storage.objects.get",
    ),
    "az": _Cloud(
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "Storage Blob Data Reader",
    ),
}
CLOUDS |= dict.fromkeys(
    UNLISTED, _Cloud("none: only what needs none is read", "its host", "reading without a name")
)


def open_store(root: str, prefix: str | None = None) -> "ObjectStore":
    """Open a bucket, a container or a host; raises `SourceError` if it cannot be spoken to."""
    try:
        from obstore import store
    except ImportError:
        message = f"{root}: to read from there, install the extra: pip install 'millrace[cloud]'"
        raise SourceError(message) from None
    address = ADDRESS.fullmatch(root)
    if address is None:
        message = f"{root}: names no bucket or host, e.g. s3://BUCKET"
        raise SourceError(message)
    scheme = address["scheme"]
    makers: dict[str, Callable[..., ObjectStore]] = {
        "s3": store.S3Store,
        "gs": store.GCSStore,
        "az": store.AzureStore,
    }
    allowed = {"allow_http": True} if is_plain_http(root) else {}
    options: Mapping[str, Any] = {"client_options": WAITS | allowed, "retry_config": RETRIES}
    with failing(root):
        if scheme in makers:
            return makers[scheme](address["bucket"], prefix=prefix, **options)
        return store.HTTPStore.from_url(root, **options)


def is_plain_http(root: str) -> bool:
    """Whether the way to a bucket or host is not encrypted, which somebody has chosen."""
    endpoint = environ.get("AWS_ENDPOINT_URL", "") if root.startswith("s3:") else root
    return endpoint.startswith("http://")


@contextmanager
def failing(root: str, expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Say what went wrong in one line, without what the store answered; let pass what is expected.

    Raises `SourceError`.
    """
    try:
        yield
    except Exception as error:  # each store has errors of its own
        if isinstance(error, (MillraceError, *expected)):
            raise
        message = f"{root}: {_reason(root, error)}"
        raise SourceError(message) from None


def _reason(root: str, error: Exception) -> str:
    """Tell from an error what is to be done.

    >>> _reason("s3://lake", Exception("404 Not Found: <Code>NoSuchBucket</Code>"))
    'there is no such bucket; check `uri`, AWS_REGION and AWS_ENDPOINT_URL'
    """
    cloud, said = CLOUDS[root.partition(":")[0]], str(error)
    code = CODE.search(said)
    if NO_CREDENTIALS.search(said):
        return f"no credentials were found; set {cloud.credentials}"
    if DENIED.search(f"{type(error).__name__} {said}"):
        detail = f" ({code[1]})" if code else ""
        return f"may not be read with these credentials{detail}; they need {cloud.rights}"
    if NO_BUCKET.search(said):
        return f"there is no such bucket; check `uri`, {cloud.place}"
    if ELSEWHERE.search(said):
        return f"is in another region; check {cloud.place}"
    if "InvalidPath" in type(error).__name__:
        return "has a key with an empty part (`//`) or `.` or `..` there; name a folder without it"
    status = code or STATUS.search(said)
    detail = f" ({status[1]})" if status else ""
    return f"cannot be reached{detail}; check `uri`, the network and {cloud.place}"
