"""From a record to its features online: posts at several rates to `millrace consume`.

The home is made of the shipped sample. Then records are posted, ten at a time or fewer, by a
program that waits for nothing: new ones, of authors and subjects that are there already. Of every
fifth post the time until its features are online is taken, of every post the acknowledgement.
"""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import httpx
from harness import ROOT, Goal, goal_table, machine, say, table, write
from pipeline import LIBRARIES, positive

SAMPLE = ROOT / "sources" / "cve_events.yaml"
DATA = ROOT / "sources" / "data" / "cve_events"
RECORDS_OF_A_POST = 10
SAMPLED = 5
SECONDS_TO_SETTLE = 20
MOST_GROWTH = 1.1
ABOUT = """measure how long a posted record takes until it is acknowledged, and until it is online

  benchmarks/fresh.py --rates 200                   five minutes at 200 records a second, memory too
  benchmarks/fresh.py --rates 20 200 --seconds 60   a minute each

The home and the data lie in a temp folder (TMPDIR says where; 100 MB) that is removed at the end.
"""


class Result(NamedTuple):
    """What one rate took: seconds by post, and the consumer's megabytes and processor time."""

    rate: int
    acknowledged: list[float]
    online: list[float]
    megabytes: list[float]
    processor: float
    n_refused: int
    n_left: int


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates", type=positive, nargs="+", default=[1, 20, 200], metavar="N", help="records/s"
    )
    parser.add_argument(
        "--seconds", type=positive, default=300, metavar="N", help="of each rate (300)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the table into this Markdown page"
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        results = measure(Path(folder), arguments.rates, arguments.seconds)
    report = describe(results, arguments.seconds, load)
    print(report)
    if arguments.write:
        write(arguments.write, "fresh", report)
    return 0


def measure(folder: Path, rates: list[int], seconds: int) -> list[Result]:
    """Build the home, then post at one rate after the other to one consumer."""
    shutil.copytree(DATA, folder / "data")
    source = SAMPLE.read_text("utf-8").replace("data/cve_events/*.jsonl.zst", "data/*")
    (folder / "cve_events.yaml").write_text(source, "utf-8")
    arguments = ["--source", folder / "cve_events.yaml", "--home", folder / "home"]
    millrace("run", "--plain", *arguments).wait()
    numbers = count()
    with consuming(arguments) as (url, pid):
        asyncio.run(post_at(url, pid, 1, SECONDS_TO_SETTLE, numbers))  # imports, first engines
        results = []
        for rate in rates:
            results.append(asyncio.run(post_at(url, pid, rate, seconds, numbers)))
            say(
                f"{rate} records/s: acknowledged {in_words(results[-1].acknowledged)}, online "
                f"{in_words(results[-1].online)}, MB {results[-1].megabytes[0]:.0f} to "
                f"{results[-1].megabytes[-1]:.0f}"
            )
    return results


def millrace(*arguments: object) -> "subprocess.Popen[bytes]":
    """Start a command on the shipped features, and no others."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    environment = {**os.environ, "MILLRACE_FEATURES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def consuming(arguments: list[object]) -> Iterator[tuple[str, int]]:
    """Run a consumer; its address and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = millrace("consume", *arguments, "--port", port)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


async def post_at(url: str, pid: int, rate: int, seconds: int, numbers: Iterator[int]) -> Result:
    """Post at a rate, whatever the answers take."""
    size = min(RECORDS_OF_A_POST, rate)
    result = Result(rate, [], [], [megabytes(pid)], 0.0, 0, 0)
    refused: list[str] = []
    lines = templates()
    before, begin = processor(pid), time.perf_counter()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client,
        asyncio.TaskGroup() as posts,
    ):
        for number in range(seconds * rate // size):
            await asyncio.sleep(max(0.0, begin + number * size / rate - time.perf_counter()))
            body = "\n".join(record(lines, next(numbers)) for _ in range(size))
            key = f"fresh-{next(numbers)}"
            is_sampled = number % SAMPLED == 0
            posts.create_task(send(client, key, body, result, refused, is_sampled=is_sampled))
            if number * size % (rate * 5) == 0:
                result.megabytes.append(megabytes(pid))
        ended = time.perf_counter() - begin
        n_left = seconds * rate // size // SAMPLED - len(result.online)
    result.megabytes.append(megabytes(pid))
    used = (processor(pid) - before) / ended
    return result._replace(processor=used, n_refused=len(refused), n_left=n_left)


async def send(
    client: httpx.AsyncClient,
    key: str,
    body: str,
    result: Result,
    refused: list[str],
    *,
    is_sampled: bool,
) -> None:
    """Send one post until it is acknowledged; if it is sampled, wait until it is online."""
    start = time.perf_counter()
    await acknowledge(client, key, body, refused)
    result.acknowledged.append(time.perf_counter() - start)
    if is_sampled:
        answer = await post(client, key, body, {"wait": "online", "timeout": 100})
        if answer.json()["reached"] != "online":
            sys.exit(f"{key} is not online: {answer.text[:300]}")
        result.online.append(time.perf_counter() - start)


async def acknowledge(client: httpx.AsyncClient, key: str, body: str, refused: list[str]) -> None:
    """Post until it is acknowledged, and note how often it was refused."""
    while True:
        answer = await post(client, key, body, {"wait": "raw"})
        if answer.status_code == httpx.codes.ACCEPTED:
            return
        refused.append(key)
        await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))


async def post(
    client: httpx.AsyncClient, key: str, body: str, parameters: dict[str, str | int]
) -> httpx.Response:
    """Post; again, with the same key, if the connection was closed before the answer."""
    while True:
        try:
            return await client.post(
                "/records", params=parameters, content=body, headers={"Idempotency-Key": key}
            )
        except httpx.TransportError:
            await asyncio.sleep(0.05)


def templates() -> list[dict[str, object]]:
    """Read the sample's newest published records."""
    import pyarrow as pa

    with pa.input_stream(str(max(DATA.iterdir()))) as stream:
        rows = map(json.loads, stream.read().decode().splitlines())
    return [row for row in rows if row["state"] == "PUBLISHED"]


def record(rows: list[dict[str, object]], number: int) -> str:
    """Make a new record, written and known now."""
    row, now = rows[number % len(rows)], datetime.now(UTC).isoformat()
    new = {"cve_id": f"CVE-2030-{number:07}", "text": f"{row['text']} Number {number}."}
    return json.dumps({**row, **new, "date_updated": now, "ingested_at": now})


def megabytes(pid: int) -> float:
    """Read the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(pid: int) -> float:
    """Read the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def after_a_fifth(result: Result) -> float:
    """The megabytes once caches are full."""
    return result.megabytes[len(result.megabytes) // 5]


def in_words(seconds: list[float]) -> str:
    return f"p50 {median(seconds):.2f} s, p95 {p95(seconds):.2f} s"


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


def describe(results: list[Result], seconds: int, load: float) -> str:
    """Tell what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/fresh.py", *sys.argv[1:]])
    head = [
        "records/s",
        "acknowledged p50, s",
        "p95, s",
        "online p50, s",
        "p95, s",
        "answered 429",
        "CPU s a second",
        "MB at the start",
        "MB after a fifth",
        "MB at the end",
    ]
    rows = [
        [
            f"{result.rate:,}",
            f"{median(result.acknowledged):.3f}",
            f"{p95(result.acknowledged):.3f}",
            f"{median(result.online):.2f}",
            f"{p95(result.online):.2f}",
            f"{result.n_refused:,}",
            f"{result.processor:.2f}",
            f"{result.megabytes[0]:,.0f}",
            f"{after_a_fifth(result):,.0f}",
            f"{result.megabytes[-1]:,.0f}",
        ]
        for result in results
    ]
    goals = [
        Goal(
            f"{result.rate:,} records/s, {name} from record to online, s",
            f"{reached:.2f}",
            f"<= {goal}",
            reached <= goal,
        )
        for result in results
        for name, reached, goal in (
            ("p50", median(result.online), 0.3),
            ("p95", p95(result.online), 1.0),
        )
    ]
    for result in results:
        growth = result.megabytes[-1] / after_a_fifth(result)
        what = f"{result.rate:,} records/s, MB at the end over those after a fifth"
        goals.append(Goal(what, f"{growth:.2f}", f"<= {MOST_GROWTH}", growth <= MOST_GROWTH))
    text = (
        f"Posts of {RECORDS_OF_A_POST} records or fewer to `millrace consume`, {seconds} s of each "
        "rate, on a home of 24,000 records with all views. The program that posts has the same "
        "cores. Acknowledged: the rows are committed to raw. Online: the features of the "
        "entities that the records are about are read by the feature server."
    )
    parts = ["## Fresh", f"`{command}`", machine(load, LIBRARIES), text, table(head, rows)]
    return "\n\n".join([*parts, goal_table("fresh", goals)])


if __name__ == "__main__":
    sys.exit(main())
