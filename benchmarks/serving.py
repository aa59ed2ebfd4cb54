"""What it takes to answer for a text in a request: by function, Feast's client and HTTP.

The home is made of one day of the shipped sample. No text is asked twice.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from harness import ROOT, Goal, goal_table, machine, say, table, write
from pipeline import FLOORS, positive

DAY = "2024-06-09"
VIEWS = ("record_quality", "record_text", "record_pii", "record_vector")
LIBRARIES = ("feast", "polars", "numpy", "pandera")
N_BYTES, MANY, WARM = 300, 100, 20
ABOUT = """measure how long a text in a request takes, through online_features, Feast and HTTP

The home lies in a temp folder (TMPDIR says where; 20 MB) that is removed at the end.
"""


class Latency(NamedTuple):
    """Milliseconds of many requests: the median, the 99th percentile, and of processor time."""

    p50: float
    p99: float
    processor: float


class Texts:
    """Texts of the sample cut to 300 bytes, each with a number, so that none comes twice."""

    def __init__(self, home: Path) -> None:
        """Take the texts of a home that are long enough."""
        import polars as pl

        texts = pl.read_delta(str(home / "staging" / "records"))["text"].drop_nulls()
        self._texts = texts.filter(texts.str.len_bytes() >= N_BYTES).to_list()
        self._number = count()

    def rows(self, n: int) -> list[dict[str, Any]]:
        """Take the next texts."""
        return [{"text": self._next()} for _ in range(n)]

    def _next(self) -> str:
        number = next(self._number)
        end = f" {number}"
        return self._texts[number % len(self._texts)][: N_BYTES - len(end)] + end


def main() -> int:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        found = measure(make_home(Path(folder)), arguments.rounds)
    report = describe(found, load)
    print(report)
    if arguments.write:
        write(arguments.write, "serving", report)
    ceilings = json.loads(FLOORS.read_text("utf-8"))["serving"]
    missed = [
        f"{name}: {found[name].processor:.1f} ms of processor time, at most {most}"
        for name, most in ceilings.items()
        if found[name].processor > most
    ]
    if arguments.check:
        print("\n".join(missed) or "ceilings hold")
    return 1 if arguments.check and missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=positive, default=300, metavar="N", help="requests of each kind (300)"
    )
    parser.add_argument(
        "--check", action="store_true", help="fail above a ceiling in benchmarks/floors.json"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into this page, too"
    )
    return parser.parse_args()


def make_home(folder: Path) -> Path:
    """Run the pipeline on a day of the sample."""
    say("a home of one day of the sample")
    os.environ["MILLRACE_FEATURES"] = ""
    days = folder / "data" / "cve_events"
    days.mkdir(parents=True)
    shutil.copy(ROOT / "sources" / "data" / "cve_events" / f"{DAY}.jsonl.zst", days)
    source = shutil.copy(ROOT / "sources" / "cve_events.yaml", folder)
    command = [sys.executable, "-m", "flows.cli", "run", "--plain", "--source", str(source)]
    command += ["--home", str(folder / "home")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "home"


def measure(home: Path, rounds: int) -> dict[str, Latency]:
    """Measure every kind of request."""
    sys.path.insert(0, str(ROOT))
    from feature_repo import online_features, store
    from transforms.features.registry import view_of

    texts = Texts(home)
    names = {view: [f"{view}:{name}" for name in view_of(view).features] for view in VIEWS}
    everything = [name for view in VIEWS for name in names[view]]
    on_demand = [name.replace(":", "_on_demand:") for name in everything]
    feast = store(home)

    def function(features: list[str], n: int) -> Callable[[], Any]:
        rows = texts.rows(n)
        return lambda: online_features(features, rows, home)

    def client(n: int) -> Callable[[], Any]:
        rows = texts.rows(n)
        return lambda: feast.get_online_features(on_demand, rows, full_feature_names=True)

    found = {
        f"online_features: {view}": timed(partial(function, names[view], 1), rounds)
        for view in VIEWS
    }
    found["online_features: all four"] = timed(lambda: function(everything, 1), rounds)
    found[f"online_features: all four, {MANY} texts"] = timed(
        lambda: function(everything, MANY), max(rounds // 10, 10)
    )
    found["Feast's client: all four"] = timed(lambda: client(1), rounds)
    with served(home) as post:

        def http(features: list[str]) -> Callable[[], Any]:
            body = {"features": features, "entities": {"text": [texts.rows(1)[0]["text"]]}}
            return lambda: post(body)

        quality = on_demand[: len(names["record_quality"])]
        found["HTTP: record_quality"] = timed(lambda: http(quality), rounds)
        found["HTTP: all four"] = timed(lambda: http(on_demand), rounds)
    return found


def timed(prepare: Callable[[], Callable[[], Any]], rounds: int) -> Latency:
    """Time requests, each prepared before its clock starts; the first ones warm up."""
    seconds, processor = [], []
    for _ in range(WARM + rounds):
        request = prepare()
        start, used = time.perf_counter(), time.process_time()
        request()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    seconds, processor = seconds[WARM:], processor[WARM:]
    p99 = quantiles(seconds, n=100, method="inclusive")[-1]
    return Latency(median(seconds) * 1e3, p99 * 1e3, median(processor) * 1e3)


@contextmanager
def served(home: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Start the feature server; yields what posts a request and fails unless it is answered."""
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home)]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(600):
                try:
                    client.get("/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.2)
            yield lambda body: client.post("/get-online-features", json=body).raise_for_status()
    finally:
        process.terminate()
        process.wait(60)


def describe(found: dict[str, Latency], load: float) -> str:
    """Lay out what was found beside the goals."""
    rows = [
        [
            name,
            f"{latency.p50:.1f}",
            f"{latency.p99:.1f}",
            f"{latency.processor:.1f}" if not name.startswith("HTTP") else "",
        ]
        for name, latency in found.items()
    ]
    quality, everything, many = (
        found[f"online_features: {name}"]
        for name in ("record_quality", "all four", f"all four, {MANY} texts")
    )
    ratio = everything.p99 / everything.p50
    goals = [
        Goal("record_quality, p50 ms", f"{quality.p50:.1f}", "<= 3", quality.p50 <= 3),
        Goal("all four, p50 ms", f"{everything.p50:.1f}", "<= 10", everything.p50 <= 10),
        Goal("all four, p99 over p50", f"{ratio:.1f}", "<= 3", ratio <= 3),
        Goal(f"all four, {MANY} texts, p50 ms", f"{many.p50:.1f}", "<= 40", many.p50 <= 40),
    ]
    return "\n\n".join(
        [
            "## A text in a request",
            "`.venv/bin/python benchmarks/serving.py --write docs/benchmarks.md`",
            machine(load, LIBRARIES),
            (
                f"Texts of {N_BYTES} bytes, none asked twice; milliseconds a request. Processor "
                "time is that of the asking process, which computes unless the server does."
            ),
            table(["request", "p50", "p99", "processor"], rows),
            goal_table("one text", goals),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
