"""Apache Spark as the engine: each task is a row of a frame that `mapInArrow` goes over.

Spark reads and writes no data, so it needs no driver for the home's storage. Where the workers are
is Spark's business: local, standalone, YARN, Kubernetes, by its own settings (spark-defaults.conf).
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from transforms.engines.engine import (
    ONE_CORE,
    TRIES,
    Answer,
    Engine,
    Made,
    Task,
    attempt_given,
    given,
)
from transforms.errors import EngineError


class SparkEngine(Engine):
    """A Spark session: the one that this process already has, or one of our own."""

    def __init__(self, master: str | None = None) -> None:
        """Take the master's URL; by default Spark's settings say, else it is this machine."""
        self._master = master

    @cached_property
    def _session(self) -> SparkSession:
        builder = (
            SparkSession.builder.appName("millrace")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.ui.showConsoleProgress", "false")
        )
        for name, value in ONE_CORE.items():
            builder = builder.config(f"spark.executorEnv.{name}", value)
        if self._master:
            builder = builder.master(self._master)
        is_set = "PYSPARK_PYTHON" in os.environ
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        try:
            return builder.getOrCreate()
        except Exception as error:  # noqa: BLE001 - Java's and Python's
            message = (
                f"Spark does not start ({_first_line(error)}); is there a Java 17 (JAVA_HOME), "
                f"and a master at MILLRACE_SPARK_MASTER={self._master or ''}?"
            )
            raise EngineError(message) from None
        finally:
            if not is_set:
                del os.environ["PYSPARK_PYTHON"]

    @property
    def n_workers(self) -> int:
        """How many tasks Spark runs at a time: the cores of its executors."""
        return int(self._session.sparkContext.defaultParallelism)

    def map(self, function: Callable[[Task], Made], tasks: Sequence[Task]) -> Iterator[Made]:
        """Yield what each task makes, in order, once all are done."""
        pickled = [given(function, task) for task in tasks]
        numbers = self._session.range(0, len(tasks), 1, max(len(tasks), 1))
        try:
            answers = numbers.mapInArrow(partial(_answers, pickled), "answer binary").toArrow()
        except (PySparkException, Py4JJavaError) as error:
            message = (
                f"Spark: a task failed {TRIES} times ({_first_line(error)}); its log says more"
            )
            raise EngineError(message) from None
        for answer in answers["answer"].to_pylist():
            found: Answer[Made] = pickle.loads(answer)  # noqa: S301 - of our own workers
            yield found.get()

    def close(self) -> None:
        """Stop the session."""
        if "_session" in vars(self):
            self._session.stop()


def _answers(pickled: list[bytes], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run the tasks of some numbers, in a worker."""
    for batch in batches:
        for number in batch.column("id").to_pylist():
            answer = attempt_given(pickled[number])
            yield pa.record_batch({"answer": pa.array([pickle.dumps(answer)], pa.binary())})


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
