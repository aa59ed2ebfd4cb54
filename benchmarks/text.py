"""How fast records are scored on all cores, and on one core compared with datatrove.

datatrove's filters decide instead of measuring, and its signature is only the first of the three
steps of its dedup; both are given every benefit: no reading, no writing, no pipeline around them.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import (
    CaseFailedError,
    Goal,
    Measured,
    clock,
    goal_table,
    in_fresh_process,
    lend,
    machine,
    say,
    table,
    write,
)
from pipeline import TIMED, find_expand, generate, positive

PEER_ROWS = 20_000
BATCH_ROWS = 50_000  # as the pipeline does by default
N_PASSES = 5  # of ours over so few records, each of which takes half a second
TIMES_AS_FAST = 20
GOALS = {"record_quality": 150_000, "record_quality + record_text": 25_000}
LIBRARIES = ("polars", "numpy", "pycld2", "py3langid")
PEERS = ("datatrove", "rensa", "spacy")
FILTERS = (
    "GopherQualityFilter",
    "GopherRepetitionFilter",
    "C4QualityFilter",
    "FineWebQualityFilter",
)
ABOUT = """measure the signals of a text on all cores, and on one beside datatrove

Needs ../shared beside the project or MILLRACE_SHARED; and beside datatrove, the extra [peers] (pip
install -c constraints.txt '.[peers]').
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=1_000_000,
        metavar="N",
        help="records on all cores (1_000_000)",
    )
    parser.add_argument(
        "--peer-rows",
        type=positive,
        default=PEER_ROWS,
        metavar="N",
        help=f"records beside datatrove ({PEER_ROWS:,})",
    )
    parser.add_argument("--alone", action="store_true", help="leave datatrove out")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/benchmarks.md",
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        parts = [signals(Path(folder), arguments.rows)]
        parts += [] if arguments.alone else [beside_datatrove(Path(folder), arguments.peer_rows)]
    command = shlex.join([".venv/bin/python", "benchmarks/text.py", *sys.argv[1:]])
    libraries = LIBRARIES if arguments.alone else (*LIBRARIES, *PEERS)
    report = "\n\n".join(["## Text signals", f"`{command}`", machine(load, libraries), *parts])
    print(report)
    if arguments.write:
        write(arguments.write, "text", report)
    return 0


def signals(folder: Path, rows: int) -> str:
    """Score all records on all cores; a table, then the goals."""
    with lend(folder, "records") as data:
        rows = generate(
            find_expand(), data, "--rows", str(rows), "--chunk", str(min(200_000, rows)), *TIMED
        )
        views = ("record_quality", "record_text")
        cases = {
            "record_quality": views[:1],
            "record_text": views[1:],
            "record_quality + record_text": views,
        }
        measured = {name: measure(score_all, data, *wanted) for name, wanted in cases.items()}
    lines = [
        [name, f"{m.seconds:.1f}", f"{rows / m.seconds:,.0f}", f"{m.peak_mb:,.0f}"]
        for name, m in measured.items()
    ]
    speeds = {name: rows / measured[name].seconds for name in GOALS}
    goals = [
        Goal(f"{name}, records/s", f"{speeds[name]:,.0f}", f">= {goal:,}", speeds[name] >= goal)
        for name, goal in GOALS.items()
    ]
    head = [f"{rows:,} records, all cores", "seconds", "records/s", "peak MB"]
    return f"{table(head, lines)}\n\n{goal_table('goals', goals)}"


def beside_datatrove(folder: Path, rows: int) -> str:
    """Lay the speeds on one core out beside each other; a table, then the goals."""
    with lend(folder, "records") as data:
        generate(find_expand(), data, "--rows", str(rows), "--badline", "0", "--badvalue", "0")
        ours, signed = measure(our_signals, data), measure(our_signatures, data)
        pairs = [
            (
                "record_quality + record_text",
                "its four filters, one after the other",
                ours,
                measure(their_filters, data),
            )
        ]
        pairs += [("", name, ours, measure(their_filter, data, name)) for name in FILTERS]
        pairs.append(
            (
                "near-duplicate signatures",
                "its MinHash signatures",
                signed,
                measure(their_signatures, data),
            )
        )
        pairs.append(
            (
                "",
                "rensa: MinHash of the same shingles, as rows",
                signed,
                measure(rensa_signatures, data),
            )
        )
    lines = [row(*pair) for pair in pairs]
    ratios = {pair[0]: line[-1] for pair, line in zip(pairs, lines, strict=True) if pair[0]}
    goals = [
        Goal(
            f"{name}, x datatrove a core", ratio, f">= {TIMES_AS_FAST}", int(ratio) >= TIMES_AS_FAST
        )
        for name, ratio in ratios.items()
    ]
    head = [
        f"{rows:,} records, one core",
        "datatrove, unless another is named",
        "our records/s",
        "its records/s",
        "x",
    ]
    return f"{table(head, lines)}\n\n{goal_table('goals', goals)}"


def row(ours: str, theirs: str, our: Measured, their: Measured) -> list[str]:
    """Lay out one comparison; each case tells how many records it has worked on."""
    our_speed, their_speed = our.made / our.seconds, their.made / their.seconds
    return [
        ours,
        theirs,
        f"{our_speed:,.0f}",
        f"{their_speed:,.0f}",
        f"{our_speed / their_speed:.0f}",
    ]


def measure(case: Callable[..., Measured], *arguments: object) -> Measured:
    """Run a case in a fresh process; without what it needs, end with one line."""
    try:
        measured = in_fresh_process(case, *arguments)
    except CaseFailedError as error:
        sys.exit(f"{case.__name__}: {error}")
    say(f"{case.__name__} {' '.join(map(str, arguments[1:]))}: {measured.seconds:.2f} s")
    return measured


def score_all(data: Path, *views: str, n_passes: int = 1) -> Measured:
    """Score every record in the pipeline's batches, some times over."""
    from transforms.text.quality import score_quality
    from transforms.text.signals import score_text

    kernels = [{"record_quality": score_quality, "record_text": score_text}[view] for view in views]
    records = records_of(data)
    for kernel in kernels:
        kernel(records.head(100).lazy()).collect()  # lexicons and models are read once
    batches = [
        records.slice(start, BATCH_ROWS).lazy() for start in range(0, records.height, BATCH_ROWS)
    ]
    return clock(
        lambda: sum(
            kernel(batch).collect().height for batch in batches * n_passes for kernel in kernels
        )
    )


def records_of(data: Path):  # noqa: ANN201 - Polars is imported in the case's own process
    """The records as a kernel takes them."""
    from datetime import UTC, datetime

    import polars as pl

    instant = pl.lit(datetime(2026, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC"))
    texts = pl.concat(
        [pl.read_ndjson(path, schema={"text": pl.String}) for path in sorted(data.glob("*.jsonl"))],
        rechunk=True,
    )
    numbers = pl.int_range(pl.len()).cast(pl.String)
    return texts.with_columns(record_id=numbers, event_timestamp=instant, created_timestamp=instant)


def one_core() -> None:
    """Keep this process, and all it starts, on one processor; before anything makes threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["POLARS_MAX_THREADS"] = "1"


def our_signals(data: Path) -> Measured:
    """Both views of a record's text."""
    one_core()
    measured = score_all(data, "record_quality", "record_text", n_passes=N_PASSES)
    return measured._replace(made=measured.made // 2)


def our_signatures(data: Path) -> Measured:
    """Digests and signatures of the normal forms."""
    one_core()
    import polars as pl

    from transforms.text.duplicates import digest_contents, normalise, sign

    texts = records_of(data).select("text")

    def work() -> int:
        normal = texts.select(normalise(pl.col("text"))).to_series()
        return len(digest_contents(normal)) and len(sign(normal))

    return clock(lambda: sum(work() for _ in range(N_PASSES)))


def their_filters(data: Path) -> Measured:
    """Apply all four filters to every record; we compute these signals too."""
    return _filtered(data, FILTERS)


def their_filter(data: Path, name: str) -> Measured:
    """One of the filters."""
    return _filtered(data, (name,))


def _filtered(data: Path, names: tuple[str, ...]) -> Measured:
    one_core()
    from datatrove.data import Document
    from datatrove.pipeline import filters

    wanted = [getattr(filters, name)() for name in names]
    documents = [
        Document(text=text, id=str(number))
        for number, text in enumerate(records_of(data)["text"].to_list())
    ]
    for each in wanted:
        each.filter(documents[0])  # tokenizers are loaded once
    return clock(
        lambda: sum(1 for document in documents if [each.filter(document) for each in wanted])
    )


def their_signatures(data: Path) -> Measured:
    """MinHash signatures with datatrove's own settings."""
    one_core()
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    texts = records_of(data)["text"].to_list()
    signature = MinhashDedupSignature(output_folder=str(data / "signatures"))
    signature.get_signature(signature.get_shingles(texts[0]))

    def sign(text: str) -> int:
        shingles = signature.get_shingles(text)
        if shingles.size:
            signature.get_signature(shingles)
        return 1

    return clock(lambda: sum(map(sign, texts)))


def rensa_signatures(data: Path) -> Measured:
    """Sign our shingles with as many values as ours; copied by row, as the matrix has no buffer."""
    one_core()
    import numpy as np
    import polars as pl
    import rensa

    from transforms.text.duplicates import BANDS, ROWS, _hash_shingles, normalise

    texts = records_of(data).select(normalise(pl.col("text"))).to_series()

    def work() -> int:
        hashes, owners = _hash_shingles(texts)
        ends = np.searchsorted(owners, np.arange(len(texts) + 1)).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, BANDS * ROWS, 42)
        return len(np.array(matrix.to_rows(), np.uint32))

    return clock(lambda: sum(work() for _ in range(N_PASSES)))


if __name__ == "__main__":
    sys.exit(main())
