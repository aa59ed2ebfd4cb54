"""What code a feature table was made by: a digest of its contract, its models, its kernel and the engines' versions."""

import hashlib
import re
from importlib.metadata import version
from importlib.resources import files

from transforms import text
from transforms.schemas import features
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.schemas.features import RecordDuplicates
from transforms.sql import model
from transforms.text.embedding import model_digest

ENGINES = ("duckdb", "polars")
# the files that a record view's kernel consists of, and the libraries that decide its values beside the engines
KERNELS = {
    "features.record_quality": ("quality.py",),
    "features.record_text": (
        *("signals.py", "words.py", "quality.py", "language.py", "identify.py"),
        *("repetition.py", "sentiment.py", "lines.py", "characters.py"),
    ),
    "features.record_pii": ("pii.py",),
    "features.record_duplicates": ("duplicates.py",),
    "features.record_vector": ("vectors.py",),
    "features.record_embedding": ("embedding.py", "vectors.py"),
}
LIBRARIES = {
    "features.record_text": ("numpy", "pycld2", "py3langid", "vaderSentiment"),
    "features.record_duplicates": ("numpy",),
    "features.record_vector": ("mmh3", "numpy"),
}
# `featurize` lays these one over the other, so no header names them all
ACTIVITY = (
    "record_changes",
    "entity_changes",
    "published_changes",
    "published",
    "relevant_versions",
    "lost_entities",
    "whole_versions",
    "entity_instants",
)
MODELS = {
    **dict.fromkeys(KERNELS, ("standing_versions",)),
    "features.author_activity": ("author_activity", *ACTIVITY),
    "features.subject_activity": ("subject_activity", *ACTIVITY),
}


def code_digest(contract: type[Contract]) -> int:
    """Digest everything that decides a feature table's values, as a number that a commit can carry as a transaction's version."""
    packages = (*ENGINES, *LIBRARIES.get(contract.relation(), ()))
    content = [*(f"{package} {version(package)}" for package in packages), *_sources(contract.relation())]
    if contract is features.RecordEmbedding:
        content.append(model_digest())
    return int(hashlib.sha256("\x1f".join(content).encode()).hexdigest()[:15], 16)


def _sources(relation: str) -> tuple[str, ...]:
    """The relation's contract, kernels and models, and those of all it reads."""
    contracts = [item for item in vars(features).values() if isinstance(item, type) and issubclass(item, Contract)]
    contract = next(item for item in contracts if item.Config.metadata.get("key") and item.relation() == relation)
    columns = _columns(contract)
    columns += [f"version {contract.version()}"]
    if relation == RecordDuplicates.relation():
        columns += _index()
    kernels = [files(text).joinpath(name).read_text("utf-8") for name in KERNELS.get(relation, ())]
    return (*columns, *kernels, *(sql for name in MODELS[relation] for sql in _models(name)))


def _columns(contract: type[Contract]) -> list[str]:
    return [repr((column.name, str(column.dtype), column.nullable, column.bounds)) for column in contract.columns()]


def _index() -> list[str]:
    """The contracts and models of the index that duplicates are found with."""
    models = sorted(path.name.removesuffix(".sql") for path in files("transforms.sql").joinpath("duplicates").iterdir())
    return [*_columns(KnownContent), *_columns(KnownDocument), *(model(f"duplicates/{name}") for name in models)]


def _models(name: str) -> tuple[str, ...]:
    """A model's text, then the texts of the feature models and relations that its header says it reads."""
    sql = model(f"features/{name}")
    said = next(line for line in sql.splitlines() if line.startswith("-- reads: ")).removeprefix("-- reads: ")
    found: list[str] = [sql]
    for read in re.sub(r"\(.*?\)", "", said).split(","):
        relation = read.strip()
        if relation.startswith("features."):
            found += _sources(relation)
        elif files("transforms.sql").joinpath(f"features/{relation}.sql").is_file():
            found += _models(relation)
    return tuple(found)
