"""The home: its settings with their defaults, and files of state that are replaced whole.

Each setting is also an environment variable, `MILLRACE_<NAME>`. A reader of a file of state sees
the old content or the new, never a part.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from transforms import replica
from transforms.errors import SettingsError

HOME_NAME = ".millrace"
CHECKOUT = Path(__file__).parents[1]
EngineName = Literal["local", "processes", "spark", "dask"]


def default_home() -> Path:
    """Find the nearest `.millrace` folder, here or in a parent folder.

    If there is none, it is the one to be created here.
    """
    here = Path.cwd()
    homes = (folder / HOME_NAME for folder in (here, *here.parents))
    return next((home for home in homes if home.is_dir()), here / HOME_NAME)


class Settings(BaseSettings):
    """Where the pipeline keeps its tables and how much of the machine it may use."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", frozen=True)

    home: Path = Field(
        default_factory=default_home,
        description="Folder for everything the pipeline writes; or object storage, "
        "s3://BUCKET/FOLDER.",
    )
    cache: Path = Field(
        default=Path("~/.cache/millrace"),
        description="Folder for what this machine keeps of homes in object storage.",
    )
    cache_bytes: int = Field(
        default=20 << 30,
        ge=0,
        description="Data files of a home in object storage that are kept there, in bytes; those "
        "of the last hour stay.",
    )
    memory_limit: str = Field(
        default="1GB",
        pattern=r"^\s*\d+(\.\d+)?\s*[KMGTkmgt]?[iI]?[bB]\s*$",
        description="Memory DuckDB may use before it spills to the home's tmp folder.",
    )
    batch_rows: int = Field(
        default=50_000, ge=1, description="Rows that are validated, scored and written at a time."
    )
    max_record_bytes: int = Field(
        default=16 << 20, ge=1, description="A longer record is quarantined, not parsed."
    )
    load_bytes: int = Field(
        default=1 << 30,
        ge=1,
        description="Source bytes that one load (one commit to raw) takes at most.",
    )
    page_rows: int = Field(
        default=250_000,
        ge=1,
        description="Rows of a database that one load (one commit to raw) takes at most.",
    )
    keep_days: float = Field(
        default=7,
        ge=0,
        description="Days for which maintenance keeps data files that newer ones have replaced.",
    )
    views: str | None = Field(
        default=None,
        description="Views to compute, with those that they read: names of views, derived views or "
        "services separated by commas, or `all`. "
        "A home keeps its choice where this is not set; a new one has all.",
    )
    online: str | None = Field(
        default=None,
        description="Views of records to keep online beside those that are declared online: "
        "names separated by commas, `all`, or empty for none of records, declared ones too. "
        "A home keeps its choice where this is not set; a new one has none.",
    )
    log_served: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the rows served online whose values are logged, for `millrace "
        "consistency`; 0 logs nothing, 1 everything.",
    )
    log_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="What the log of served values may take on disk; the oldest leave first.",
    )
    embedder: Path | None = Field(
        default=None,
        description="Folder of a sentence-transformers model; "
        "if it is set, there is a view record_embedding made by it.",
    )

    engine: EngineName = Field(
        default="local",
        description="What computes large stages: `local`, this process; `processes`, one a core of "
        "this machine; `spark` or `dask`, where their settings say.",
    )
    spark_master: str | None = Field(
        default=None,
        description="Spark's master, e.g. spark://host:7077; by default Spark's own settings say.",
    )
    dask_scheduler: str | None = Field(
        default=None,
        description="Dask's scheduler, e.g. tcp://host:8786; by default one is started here.",
    )

    feature_store: Path | None = Field(
        default=None,
        description="File that says where online values and Feast's registry are, in place of the "
        "package's `feature_store.yaml`; `${NAME}` in it is a variable of the environment.",
    )
    features: str | None = Field(
        default=None,
        description="Folders of your own features, one Python file per subject, separated by "
        f"{os.pathsep!r}; by default `features` of the checkout, or where the package is installed "
        "without one, `features` beside the nearest `.millrace`. Empty for none.",
    )

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise SettingsError(invalid("MILLRACE_", error)) from None

    @property
    def feature_folders(self) -> list[Path]:
        """The folders of the user's own features, as absolute paths."""
        if self.features is None:
            is_checkout = (CHECKOUT / "pyproject.toml").is_file()
            return [(CHECKOUT if is_checkout else default_home().parent) / "features"]
        return [
            Path(folder).expanduser().resolve()
            for folder in self.features.split(os.pathsep)
            if folder
        ]

    @property
    def root(self) -> Path:
        """The home as an absolute path; of one in object storage, that of its copy here."""
        if (uri := self.address) is None:
            return self.home.expanduser().resolve()
        name = f"{uri.rpartition('/')[2]}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"
        return self.cache.expanduser().resolve() / name

    @property
    def address(self) -> str | None:
        """The address of a home in object storage."""
        found = replica.address_of(self.home)
        return "/".join(filter(None, found)) if found else None

    @property
    def replica(self) -> replica.Replica | None:
        """The copy of a home in object storage; None for a home that is a folder."""
        return replica.attach(self.root, self.address, self.cache_bytes)


def invalid(prefix: str, error: ValidationError) -> str:
    """Name the variable that is wrong first, and why, without its value."""
    problem = error.errors(include_input=False, include_url=False)[0]
    is_size = problem["type"] == "string_pattern_mismatch"
    reason = "write a number and a unit, e.g. 1GB" if is_size else problem["msg"].lower()
    return f"{prefix}{str(problem['loc'][0]).upper()}: {reason}"


def settings_of(home: Path = CHECKOUT) -> Settings:
    """Read the settings of a home, or those that no home changes, once for an environment.

    To read them takes 3 ms, and a run asks for them dozens of times.

    >>> settings_of(Path("here")) is settings_of(Path("here")), settings_of(Path("here")).home.name
    (True, 'here')
    """
    chosen = [name for name in os.environ if name.upper().startswith("MILLRACE_")]
    return _settings(home, tuple((name, os.environ[name]) for name in sorted(chosen)))


@lru_cache(maxsize=16)
def _settings(home: Path, _environment: tuple[tuple[str, str], ...]) -> Settings:
    return Settings(home=home)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under another name, then move it into place.

    Threads and processes may do so at once; the last one wins. Raises OSError if the disk is full
    or not writable; the file keeps its content.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder, "state"), b"old")
    ...     replace_file(Path(folder, "state"), b"new")
    ...     [path.name for path in Path(folder).iterdir()], Path(folder, "state").read_bytes()
    (['state'], b'new')
    """
    if (there := replica.replica_of(path)) and there.shares(path):
        there.write(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.half")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def remove_files(paths: Sequence[Path]) -> None:
    """Delete files of a home, in object storage too; those that are gone already do not matter."""
    if paths and (there := replica.replica_of(paths[0])):
        there.remove(paths)
        return
    for path in paths:
        path.unlink(missing_ok=True)


def sweep_halves(home: Path) -> None:
    """Remove the partial files of killed processes, in a home and beside its online store."""
    for half in [*home.glob("*.half"), *(home / "feast").rglob("*.half")]:
        process = half.name.split(".")[-2].partition("-")[0]
        with suppress(PermissionError):  # the process exists and belongs to another user
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                half.unlink(missing_ok=True)
