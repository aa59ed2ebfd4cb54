"""Files in object storage and on web servers: listed, told apart by ETag and size, and fetched.

Credentials, endpoint and region are the environment's, by the names that each cloud's own tools
have. A failure is said without what the store answered, which may contain them.
"""

import glob
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from transforms.buckets import ADDRESS, UNLISTED, failing, open_store
from transforms.errors import FileRefusedError, HomeError, SourceError
from transforms.sources.source import RemoteObject, Source, SourceFile
from transforms.warehouse.scratch import scratch_folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore

AT_ONCE = 8
CHUNK_BYTES = 8 << 20
LocalCopy = Callable[[SourceFile], SourceFile]


class Address(NamedTuple):
    """Where a source's `uri` leads: a bucket or host, and a key, a folder of keys or a pattern."""

    root: str
    scheme: str
    bucket: str
    key: str

    @property
    def parts(self) -> list[str]:
        """The key, cut into folders and name."""
        return [part for part in self.key.split("/") if part]

    @property
    def is_pattern(self) -> bool:
        """Whether it has wildcards."""
        return glob.has_magic(self.key)

    @property
    def folder(self) -> list[str]:
        """The parts up to the first wildcard; all of them where there is none."""
        if not self.is_pattern:
            return self.parts
        return list(itertools.takewhile(lambda part: not glob.has_magic(part), self.parts[:-1]))

    def leads_to(self, key: str) -> bool:
        """Whether a key is what this names, is below it or matches it.

        >>> [address_of(uri).leads_to("in/2026/a.csv") for uri in ("s3://b/in", "s3://b/in/*.csv")]
        [True, False]
        """
        parts = [part for part in key.split("/") if part]
        below = parts[len(self.folder) :]
        if parts[: len(self.folder)] != self.folder:
            return False
        if any(part.startswith((".", "_")) for part in below):
            return False
        return not self.is_pattern or _matches(below, self.parts[len(self.folder) :])


def address_of(uri: str) -> Address:
    """Take an address apart; raises `SourceError`.

    >>> address_of("s3://lake/in/*.csv")
    Address(root='s3://lake', scheme='s3', bucket='lake', key='in/*.csv')
    """
    found = ADDRESS.fullmatch(uri)
    if found is None:
        message = f"{uri}: names no bucket or host, e.g. s3://BUCKET/FOLDER/*.jsonl"
        raise SourceError(message)
    address = Address(found["root"], found["scheme"], found["bucket"], found["key"] or "")
    if address.scheme in UNLISTED and (address.is_pattern or not address.parts):
        message = (
            f"{uri}: a web server cannot be asked which files it has; name each file, in a list if "
            "there are several, without wildcards or a query"
        )
        raise SourceError(message)
    return address


def find_objects(source: Source) -> Iterator[tuple[RemoteObject, bool]]:
    """Find what a source's addresses lead to, each once, and whether a folder led there.

    Raises `SourceError` if a store cannot be listed.
    """
    found: dict[str, tuple[RemoteObject, bool]] = {}
    for address in map(address_of, source.addresses):
        store = open_store(address.root)
        with failing(address.root):
            exact = _exact(store, address)
            metas = [exact] if exact else _listed(store, address)
        for meta in metas:
            key = address.key if meta is exact else meta["path"]
            item = RemoteObject(address.root, key, meta["size"], _mark(meta))
            found.setdefault(item.uri, (item, meta is not exact and not address.is_pattern))
    yield from (found[uri] for uri in sorted(found))


def leads_to(source: Source, uri: str) -> bool:
    """Whether a source's `uri` leads to an object that was loaded."""
    return any(
        uri.startswith(f"{address.root}/") and address.leads_to(uri[len(address.root) + 1 :])
        for address in map(address_of, source.addresses)
    )


@contextmanager
def local_copies(files: Sequence[SourceFile], home: Path) -> Iterator[LocalCopy]:
    """Fetch files into the home's scratch, some at once; the block gets each when it asks.

    A file that is here already is as it is. Raises, for the file that is asked for,
    `FileRefusedError` if it has changed since it was listed.
    """
    remote = {file.uri: file.remote for file in files if file.remote}
    if not remote:
        yield lambda file: file
        return
    stores = {root: open_store(root) for root in {item.root for item in remote.values()}}
    with scratch_folder(home) as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        copies = {
            uri: pool.submit(_fetch, stores[item.root], item, folder / str(number))
            for number, (uri, item) in enumerate(remote.items())
        }
        try:
            yield (
                lambda file: file._replace(path=copies[file.uri].result()) if file.remote else file
            )
        finally:
            pool.shutdown(cancel_futures=True)


def _exact(store: "ObjectStore", address: Address) -> Mapping[str, Any] | None:
    """Look for the one object that an address names."""
    import obstore

    if address.is_pattern or not address.parts or address.key.endswith("/"):
        return None
    try:
        meta: Mapping[str, Any] = obstore.head(store, _path(address.root, address.key))
    except FileNotFoundError:
        return None
    return meta


def _listed(store: "ObjectStore", address: Address) -> list[Mapping[str, Any]]:
    import obstore

    if address.scheme in UNLISTED:
        return []
    folder = "/".join(address.folder)
    pages = obstore.list(store, folder or None)
    # an empty object without a suffix is a folder that a console has made
    return [
        meta
        for meta in itertools.chain.from_iterable(pages)
        if (meta["size"] or Path(meta["path"]).suffix) and address.leads_to(meta["path"])
    ]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Match folders and name one by one; `**` is any folders, and at the end all files in them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ["*"]
        return any(_matches(parts[start:], rest) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _fetch(store: "ObjectStore", item: RemoteObject, path: Path) -> Path:
    """Copy an object to a file, if it still is as it was listed."""
    import obstore
    from obstore.exceptions import PermissionDeniedError

    with failing(item.root):
        try:
            got = obstore.get(store, _path(item.root, item.key))
            is_same = (got.meta["size"], _mark(got.meta)) == (item.n_bytes, item.mark)
            if is_same:
                _write(got.stream(min_chunk_size=CHUNK_BYTES), path)
        except FileNotFoundError:
            is_same = False
        except PermissionDeniedError:
            message = f"{item.uri}: refused, may not be read with these credentials; allow it"
            raise FileRefusedError(message) from None
    if not is_same:
        message = f"{item.uri}: refused, has changed since it was listed; the next run takes it"
        raise FileRefusedError(message)
    return path


def _write(chunks: Iterable[Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        message = f"{path.parent}: cannot be written ({error.strerror}); make room there"
        raise HomeError(message) from None


def _mark(meta: Mapping[str, Any]) -> str:
    """Return what changes with the content; a server without ETags has the time of change."""
    return str(meta["e_tag"] or meta["last_modified"].isoformat())


def _path(root: str, key: str) -> str:
    """Return a key as its store has it; an address in the web is written with escapes."""
    return unquote(key) if root.startswith("http") else key
