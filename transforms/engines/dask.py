"""Dask as the engine: each task is a future of a `distributed` client."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from distributed import Client, KilledWorker, LocalCluster

from transforms.engines.engine import ONE_CORE, TRIES, Engine, Made, Task, attempt_given, given
from transforms.errors import EngineError


class DaskEngine(Engine):
    """A client of a scheduler, or of a cluster of this machine's cores."""

    def __init__(self, scheduler: str | None = None) -> None:
        """Take the scheduler's address, e.g. `tcp://host:8786`; by default one is started here."""
        self._scheduler = scheduler
        self._cluster: LocalCluster | None = None

    @cached_property
    def _client(self) -> Client:
        if self._scheduler is None:
            self._cluster = LocalCluster(
                threads_per_worker=1, dashboard_address=None, env=ONE_CORE, silence_logs=50
            )
        try:
            return Client(self._cluster or self._scheduler, set_as_default=False)
        except OSError as error:
            message = f"MILLRACE_DASK_SCHEDULER={self._scheduler}: does not answer ({error})"
            raise EngineError(message) from None

    @property
    def n_workers(self) -> int:
        """How many tasks run at a time: the threads of the workers."""
        return max(sum(map(int, self._client.nthreads().values())), 1)

    def map(self, function: Callable[[Task], Made], tasks: Sequence[Task]) -> Iterator[Made]:
        """Yield what each task makes, in order."""
        pickled = [given(function, task) for task in tasks]
        futures = self._client.map(attempt_given, pickled, pure=False, retries=TRIES - 1)
        try:
            for future in futures:
                yield future.result().get()
        except KilledWorker as error:
            message = f"Dask: the workers of a task keep ending ({error}); is there enough memory?"
            raise EngineError(message) from None
        finally:
            self._client.cancel(futures)

    def close(self) -> None:
        """End the client, and the cluster if it is ours."""
        if "_client" in vars(self):
            self._client.close()
        if self._cluster:
            self._cluster.close()
