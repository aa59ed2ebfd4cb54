"""The home: every setting and its default, and files of state that are replaced whole.

Each setting is also an environment variable, `MILLRACE_<NAME>`. Who reads a file of state sees it before or after, never a half.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

HOME_NAME = ".millrace"
CHECKOUT = Path(__file__).parents[1]


def default_home() -> Path:
    """Find the nearest `.millrace` folder, here or in a parent folder; the one to be made here if there is none."""
    here = Path.cwd()
    homes = (folder / HOME_NAME for folder in (here, *here.parents))
    return next((home for home in homes if home.is_dir()), here / HOME_NAME)


class Settings(BaseSettings):
    """Where the pipeline keeps its tables and how much of the machine it may use."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", frozen=True)

    home: Path = Field(
        default_factory=default_home,
        description="Folder that holds everything the pipeline writes.",
    )
    memory_limit: str = Field(
        default="1GB",
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
    keep_days: float = Field(
        default=7,
        ge=0,
        description="Days for which maintenance keeps data files that newer ones have replaced.",
    )
    online: str | None = Field(
        default=None,
        description="Views of records to keep online beside those of entities: names with commas between, `all`, or empty for none. "
        "A home keeps its choice where this is not set; a new one has none.",
    )
    embedder: Path | None = Field(
        default=None,
        description="Folder of a sentence-transformers model; set, there is a view record_embedding made by it.",
    )

    features: str | None = Field(
        default=None,
        description="Folders of your own features, one Python file a subject, with "
        f"{os.pathsep!r} between them; by default `features` of the checkout, if it is there. Empty for none.",
    )

    @property
    def feature_folders(self) -> list[Path]:
        """The folders of the user's own features, as absolute paths."""
        if self.features is None:
            return [CHECKOUT / "features"]
        return [
            Path(folder).expanduser().resolve()
            for folder in self.features.split(os.pathsep)
            if folder
        ]

    @property
    def root(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().resolve()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside, then put it in the place of the one before. Threads and processes may do so at once: the last one stays.

    Raises OSError where the disk is full or may not be written; the file stays what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.half")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def sweep_halves(home: Path) -> None:
    """Remove what killed processes had begun to write, in a home and beside its online store."""
    for half in [*home.glob("*.half"), *(home / "feast").rglob("*.half")]:
        process = half.name.split(".")[-2].partition("-")[0]
        with suppress(PermissionError):  # the process is there, and another user's
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                half.unlink(missing_ok=True)
