"""How fast records are scored and near-duplicates found, beside datatrove on the same records, a core each.

datatrove's filters decide instead of measuring, and its signature is only the first of the three steps of its dedup; both are
given every benefit: no reading, no writing, no pipeline around them.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness import CaseFailedError, Measured, clock, in_fresh_process, lend, machine, say, table, write
from pipeline import find_expand, generate, positive

ROWS = 20_000
LIBRARIES = ("polars", "duckdb", "numpy", "pycld2", "rensa", "datatrove", "spacy")
FILTERS = ("GopherQualityFilter", "GopherRepetitionFilter", "C4QualityFilter", "FineWebQualityFilter")
ABOUT = """measure text signals and near-duplicates beside datatrove, one core each, on the same records

Needs the extra [peers] (pip install -c constraints.txt 'millrace[peers]'), and ../shared beside the project or MILLRACE_SHARED.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=ROWS, metavar="N", help=f"records ({ROWS:,})")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown page, e.g. docs/benchmarks.md")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, lend(Path(folder), "records") as data:
        generate(find_expand(), data, "--rows", str(arguments.rows), "--badline", "0", "--badvalue", "0")
        report = describe(data, arguments.rows, load)
    print(report)
    if arguments.write:
        write(arguments.write, "peers", report)
    return 0


def describe(data: Path, rows: int, load: float) -> str:
    """Run every case and lay the speeds out beside each other."""
    signals, near = measure(our_signals, data), measure(our_duplicates, data)
    lines = [row("record_quality + record_text", "datatrove's four filters, one after the other", signals, measure(their_filters, data))]
    lines += [row("", name, signals, measure(their_filter, data, name)) for name in FILTERS]
    lines.append(row("near-duplicates, whole", "datatrove's MinHash signature alone", near, measure(their_signature, data)))
    head = ["ours", "theirs", "our records/s/core", "their records/s/core", "x theirs"]
    command = shlex.join([".venv/bin/python", "benchmarks/peers.py", *sys.argv[1:]])
    return "\n\n".join(["## Beside datatrove", f"`{command}`, {rows:,} records", machine(load, LIBRARIES), table(head, lines)])


def row(ours: str, theirs: str, our: Measured, their: Measured) -> list[str]:
    """Lay out one comparison; each case counts the records it has worked on."""
    our_speed, their_speed = our.made / our.seconds, their.made / their.seconds
    return [ours, theirs, f"{our_speed:,.0f}", f"{their_speed:,.0f}", f"{our_speed / their_speed:.0f}"]


def measure(case: Callable[..., Measured], *arguments: object) -> Measured:
    """Run a case in a fresh process; without what it needs, end with one line."""
    try:
        measured = in_fresh_process(case, *arguments)
    except CaseFailedError as error:
        sys.exit(f"{case.__name__}: {error}")
    say(f"{case.__name__} {' '.join(map(str, arguments[1:]))}: {measured.seconds:.2f} s")
    return measured


def one_core() -> None:
    """Keep this process, and all it starts, on one processor; before anything makes threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["POLARS_MAX_THREADS"] = "1"


def texts_of(data: Path) -> "list[str]":
    """The texts of the records."""
    import polars as pl

    texts: list[str] = pl.scan_ndjson(sorted(data.glob("*.jsonl"))).select("text").collect()["text"].to_list()
    return texts


def our_signals(data: Path) -> Measured:
    """Both views of a record's text."""
    one_core()
    import polars as pl

    from transforms.text.quality import score_quality
    from transforms.text.signals import score_text

    texts = texts_of(data)
    times = {name: pl.lit(None, pl.Datetime("us", "UTC")) for name in ("event_timestamp", "created_timestamp")}
    records = pl.LazyFrame({"record_id": map(str, range(len(texts))), "text": texts}).with_columns(**times)
    score_text(records.head(100)).collect()  # lexicons and models are read once
    return clock(lambda: score_quality(records).collect().height and score_text(records).collect().height)


def their_filters(data: Path) -> Measured:
    """All four filters on every record, whatever the one before says: these are our signals, too."""
    return _filtered(data, FILTERS)


def their_filter(data: Path, name: str) -> Measured:
    """One of the filters."""
    return _filtered(data, (name,))


def _filtered(data: Path, names: tuple[str, ...]) -> Measured:
    one_core()
    from datatrove.data import Document
    from datatrove.pipeline import filters

    wanted = [getattr(filters, name)() for name in names]
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts_of(data))]
    for each in wanted:
        each.filter(documents[0])  # tokenizers are loaded once
    return clock(lambda: sum(1 for document in documents if [each.filter(document) for each in wanted]))


def their_signature(data: Path) -> Measured:
    """MinHash signatures with datatrove's own settings."""
    one_core()
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    texts = texts_of(data)
    signature = MinhashDedupSignature(output_folder=str(data / "signatures"))
    signature.get_signature(signature.get_shingles(texts[0]))

    def sign(text: str) -> int:
        shingles = signature.get_shingles(text)
        if shingles.size:
            signature.get_signature(shingles)
        return 1

    return clock(lambda: sum(map(sign, texts)))


if __name__ == "__main__":
    sys.exit(main())
