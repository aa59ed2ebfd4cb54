"""How many requests a home in object storage costs, and what they take at 50 ms each.

    python benchmarks/object_home.py

A real S3 protocol on this machine (moto's server), every request delayed; no real store's speed.
"""

import argparse
import collections
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from feature_repo import training_set
from flows.stages import MaintainParameters, PipelineParameters, run_maintenance, run_plain
from transforms import replica

ROWS = 200
SPINE = (
    "select record_id, author_id, known_timestamp as event_timestamp from staging.records "
    "order by all"
)
SOURCE = """
name: notes
uri: data/*.jsonl
known: {column: known}
record: {record_id: id, author_id: author, subject_id: about, event_timestamp: known, text: text}
"""


class Counting:
    """A server that counts what is asked of it, and waits before it answers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.counts: collections.Counter[str] = collections.Counter()
        self._application = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        method = environment["REQUEST_METHOD"]
        is_list = method == "GET" and "list-type" in environment["QUERY_STRING"]
        self.counts["LIST" if is_list else method] += 1
        time.sleep(self.seconds)
        answer: Iterable[bytes] = self._application(environment, start)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milliseconds", type=float, default=50, help="a request (50)")
    delay = parser.parse_args().milliseconds / 1000
    logging.getLogger("werkzeug").disabled = True  # it says every request
    counting = Counting(0)
    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "MILLRACE_FEATURES": "",
    }
    boto3.client(
        "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"
    ).create_bucket(Bucket="homes")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "notes.yaml")
        source.write_text(SOURCE)
        Path(folder, "data").mkdir()
        print(
            f"| what, of {ROWS} records | disk, s | 0 ms, s | {delay * 1000:.0f} ms, s | requests |"
        )
        print("|---|---:|---:|---:|---|")
        _measure(Path(folder), source, counting, delay)
    server.shutdown()


def _measure(folder: Path, source: Path, counting: Counting, delay: float) -> None:
    homes = {"disk": str(folder / "home"), "near": "s3://homes/near", "far": "s3://homes/far"}
    _use(folder / "machine")
    steps: dict[str, Callable[[str], object]] = {
        "the first run": lambda home: run_plain(PipelineParameters(source=str(source), home=home)),
        "an increment": lambda home: run_plain(PipelineParameters(source=str(source), home=home)),
        "nothing new": lambda home: run_plain(PipelineParameters(source=str(source), home=home)),
        "maintenance": lambda home: run_maintenance(MaintainParameters(home=home), n_reads=0),
        "a training set": lambda home: training_set(SPINE, ["record_quality:n_words"], home),
        "a training set on another machine": lambda home: training_set(
            SPINE, ["record_quality:n_words"], home
        ),
    }
    for number, (name, step) in enumerate(steps.items()):
        if number < 2:
            _write(folder / "data" / f"{number}.jsonl", number)
        if "another" in name:
            _use(folder / "other")
        seconds = {}
        for place, home in homes.items():
            counting.seconds = delay if place == "far" else 0
            counting.counts.clear()
            start = time.perf_counter()
            step(home)
            seconds[place] = time.perf_counter() - start
        asked = ", ".join(f"{n} {kind}" for kind, n in sorted(counting.counts.items()))
        timed = " | ".join(f"{value:.1f}" for value in seconds.values())
        print(f"| {name} | {timed} | {sum(counting.counts.values())}: {asked} |", flush=True)


def _use(cache: Path) -> None:
    """Be a machine that keeps what it has of homes in a folder."""
    os.environ["MILLRACE_CACHE"] = str(cache)
    replica._replicas.clear()  # noqa: SLF001


def _write(path: Path, number: int) -> None:
    rows = [
        {
            "id": f"r{number}-{n}",
            "author": f"u{n % 7}",
            "about": f"s{n % 3}",
            "known": f"2024-01-{1 + n % 28:02}T10:00:00Z",
            "text": f"note {n} of {number}",
        }
        for n in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
