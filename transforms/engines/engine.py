"""The protocol of engines, and the one that a run is to use."""

import atexit
import pickle
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from transforms.errors import EngineError
from transforms.home import Settings

Task = TypeVar("Task")
Made = TypeVar("Made")
# a task whose worker ends before it answers is given to another one so many times in all
TRIES = 4
# with fewer rows, to hand them out takes longer than the work
FEW_ROWS = 10_000
# bytes of files that are loaded in about the time in which so many rows are staged
FEW_BYTES = 32 << 20
# a worker has a core: libraries that would take all of them are told so before they are imported
ONE_CORE = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


class Engine(ABC):
    """Workers that run functions of modules which can be imported there."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """How many tasks run at a time."""

    @abstractmethod
    def map(self, function: Callable[[Task], Made], tasks: Sequence[Task]) -> Iterator[Made]:
        """Yield what the function makes of each task, in their order.

        A task may be tried more than once, even at once. What the function raises is raised here.
        Raises `EngineError` where a task's workers keep ending before they answer.
        """

    @abstractmethod
    def close(self) -> None:
        """End what the engine has started."""


class Answer(NamedTuple, Generic[Made]):
    """What a function made of a task, or what it raised."""

    made: Made | None
    error: Exception | None

    def get(self) -> Made:
        """Return what was made, or raise what was raised."""
        if self.error:
            raise self.error
        return self.made  # type: ignore[return-value]


def attempt(function: Callable[[Task], Made], task: Task) -> Answer[Made]:
    """Run a task in a worker, whose engine would run what it raises again.

    So only errors that may pass, of files and memory, are raised.

    >>> attempt(int, "7").get()
    7
    >>> attempt(int, "seven").error
    ValueError("invalid literal for int() with base 10: 'seven'")
    """
    try:
        return Answer(function(task), None)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - it is raised where the task came from
        return Answer(None, error)


def given(function: Callable[[Task], Made], task: Task) -> bytes:
    """Pickle a task on its way to a worker, for `attempt_given`."""
    return pickle.dumps((function, task), pickle.HIGHEST_PROTOCOL)


def attempt_given(pickled: bytes) -> Answer[Any]:
    """Run a pickled task as `attempt` does; a function that cannot be imported here is its error.

    >>> attempt_given(given(int, "7")).get()
    7
    >>> attempt_given(pickle.dumps(int).replace(b"int", b"tin")).error  # doctest: +ELLIPSIS
    EngineError("...: a task cannot be loaded (Can't get attribute 'tin' on ...)...
    """
    try:
        function, task = pickle.loads(pickled)  # noqa: S301 - of our own driver
    except Exception as error:  # noqa: BLE001 - whatever the import of a module raises
        message = (
            f"{socket.gethostname()}: a task cannot be loaded ({error}); its millrace, Python and "
            "libraries must be those of the driver"
        )
        return Answer(None, EngineError(message))
    return attempt(function, task)


def engine_for(settings: Settings, n_rows: int) -> Engine | None:
    """Return the engine that is to work on so many rows; None is this process.

    >>> engine_for(Settings(engine="processes"), 10) is None
    True
    """
    return engine_of(settings) if n_rows > FEW_ROWS else None


def engine_for_bytes(settings: Settings, n_bytes: int) -> Engine | None:
    """Return the engine that is to load files of so many bytes; None is this process.

    >>> engine_for_bytes(Settings(engine="processes"), 10_000) is None
    True
    """
    return engine_of(settings) if n_bytes > FEW_BYTES else None


def engine_of(settings: Settings) -> Engine | None:
    """Return the engine that the settings choose; None is this process alone.

    It is started once in a process and closed at its end. Raises `EngineError` if its library is
    not installed.
    """
    if settings.engine == "local":
        return None
    return _engine(settings.engine, settings.spark_master, settings.dask_scheduler)


@lru_cache(maxsize=1)
def _engine(name: str, spark_master: str | None, dask_scheduler: str | None) -> Engine:
    try:
        engine = _started(name, spark_master, dask_scheduler)
    except ModuleNotFoundError as error:
        message = (
            f"MILLRACE_ENGINE={name}: {error.name} is not installed; pip install 'millrace[{name}]'"
        )
        raise EngineError(message) from None
    atexit.register(engine.close)
    return engine


def _started(name: str, spark_master: str | None, dask_scheduler: str | None) -> Engine:
    if name == "spark":
        from transforms.engines.spark import SparkEngine

        return SparkEngine(spark_master)
    if name == "dask":
        from transforms.engines.dask import DaskEngine

        return DaskEngine(dask_scheduler)
    from transforms.engines.processes import ProcessesEngine

    return ProcessesEngine()
