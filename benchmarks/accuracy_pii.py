"""How well identifiers are found: labelled cases, look-alikes, and real commits and CVE texts."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import polars as pl
from harness import ROOT, table, write
from pii_cases import Case, found, labelled, negatives

from transforms.text.pii import KINDS, redact

PREAMBLE = """# Accuracy

How often what is told of a text is right, kind by kind, and how that was measured. Tests hold the
figures to floors.
"""
SEED = 2026  # the patterns were written beside cases of another seed
KNOWN = r"u[0-9a-f]+@example\.invalid"
Spans = list[tuple[str, int, int]]
ABOUT = """measure precision and recall of the redaction

Real texts are read from ../shared beside the project, or the folder in MILLRACE_SHARED; without it
they are left out.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--each",
        type=int,
        default=400,
        metavar="N",
        help="cases for every way of writing every kind (400)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/accuracy.md",
    )
    arguments = parser.parse_args()
    shared = Path(os.environ.get("MILLRACE_SHARED") or ROOT.parent / "shared")
    report = describe(arguments.each, shared if shared.is_dir() else None)
    print(report)
    if arguments.write and not arguments.write.exists():
        arguments.write.write_text(PREAMBLE, "utf-8")
    if arguments.write:
        write(arguments.write, "pii", report)
    return 0


def describe(n_each: int, shared: Path | None) -> str:
    """Measure, and write it down."""
    cases = labelled(n_each, SEED)
    spans = find(case.text for case in cases)
    lookalikes = negatives(n_each, SEED)
    stray = find(text for _, text in lookalikes)
    parts = [
        "## Identifiers",
        (
            f"`.venv/bin/python benchmarks/accuracy_pii.py --each {n_each} --write "
            f"docs/accuracy.md` (Faker {version('faker')}, seed {SEED})"
        ),
        INTRODUCTION,
        by_kind(cases, spans, stray),
        "Recall by the way it is written, where it is not 1.000:",
        by_sort(cases, spans),
        f"Texts that only look like it: {lookalike_line(lookalikes, stray)}",
        real(shared) if shared else "Real texts were not at hand.",
        KNOWN_WRONG,
    ]
    return "\n\n".join(parts)


def find(texts: Iterable[str]) -> list[Spans]:
    """Redact texts, and tell what was found in each."""
    frame = pl.DataFrame({"text": list(texts)}).with_columns(redacted=redact(pl.col("text")))
    return [found(text, redacted, KINDS) for text, redacted in frame.iter_rows()]


def is_recalled(case: Case, spans: Spans) -> bool:
    """Whether all of the identifier is replaced, by a placeholder of its kind."""
    return any(
        kind == case.kind and start <= case.start and end >= case.end for kind, start, end in spans
    )


def by_kind(cases: list[Case], spans: list[Spans], stray: list[Spans]) -> str:
    """Lay out precision and recall by kind."""
    wanted, recalled, given, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for case, found_spans in zip(cases, spans, strict=True):
        wanted[case.kind] += 1
        recalled[case.kind] += is_recalled(case, found_spans)
        for kind, start, end in found_spans:
            given[kind] += 1
            right[kind] += kind == case.kind and start < case.end and end > case.start
    given.update(kind for found_spans in stray for kind, _, _ in found_spans)
    rows = [
        [
            kind,
            f"{wanted[kind]:,}",
            f"{recalled[kind] / wanted[kind]:.3f}",
            f"{right[kind] / given[kind]:.3f}",
        ]
        for kind in KINDS
    ]
    return table(["kind", "cases", "recall", "precision"], rows)


def by_sort(cases: list[Case], spans: list[Spans]) -> str:
    """Lay out the recall of what is not always found."""
    wanted = Counter((case.kind, case.sort) for case in cases)
    recalled = Counter(
        (case.kind, case.sort)
        for case, found_spans in zip(cases, spans, strict=True)
        if is_recalled(case, found_spans)
    )
    rows = [
        [kind, sort, f"{n:,}", f"{recalled[kind, sort] / n:.3f}"]
        for (kind, sort), n in wanted.items()
        if recalled[kind, sort] < n
    ]
    return table(["kind", "written", "cases", "recall"], rows)


def lookalike_line(lookalikes: list[tuple[str, str]], stray: list[Spans]) -> str:
    """Say how many of the texts without an identifier were changed."""
    sorts = Counter(
        sort for (sort, _), found_spans in zip(lookalikes, stray, strict=True) if found_spans
    )
    n_sorts = len({sort for sort, _ in lookalikes})
    changed = "; ".join(f"{sort}: {n}" for sort, n in sorts.items()) or "none"
    return f"{len(lookalikes):,} texts of {n_sorts} sorts; changed: {changed}."


def real(shared: Path) -> str:
    """Count what is redacted in real texts, and how much of what is known to be there."""
    commits = read(shared / "data" / "commits", "message")
    texts = read(shared / "data" / "cve_events", "text").unique(maintain_order=True)
    known = int(commits.str.count_matches(KNOWN).sum())
    counts = {name: count(series) for name, series in (("commits", commits), ("CVE texts", texts))}
    left = int(
        commits.to_frame("text")
        .select(redact(pl.col("text")).str.count_matches(KNOWN).sum())
        .item()
    )
    rows = [[kind, *(f"{counts[name][kind]:,}" for name in counts)] for kind in KINDS]
    known_line = (
        f"Of the {known:,} addresses in the commits that are known by their form, "
        f"{known - left:,} are redacted."
    )
    header = ["redacted", f"{len(commits):,} commits", f"{len(texts):,} CVE texts"]
    return f"Real texts:\n\n{table(header, rows)}\n\n{known_line}\n\n{LOOKED_AT}"


def read(folder: Path, column: str) -> pl.Series:
    """Read one column of all files."""
    return pl.concat(
        [pl.read_ndjson(path, schema={column: pl.String}) for path in sorted(folder.glob("*.zst"))]
    )[column].drop_nulls()


def count(texts: pl.Series) -> dict[str, int]:
    """Count placeholders by kind."""
    redacted = texts.to_frame("text").select(redact(pl.col("text")))["text"]
    return {
        kind: int(redacted.str.count_matches(f"<{kind}>", literal=True).sum()) for kind in KINDS
    }


INTRODUCTION = """\
Cases are sentences, JSON, CSV and code with one identifier each (`benchmarks/pii_cases.py`): e-mail
addresses, phone numbers and IBANs of seven locales, cards, US numbers, public v4 addresses and
passwords from Faker, all else drawn by the script: JCB and Maestro cards too, because Faker draws
them with prefixes that the issuers do not hold, and no card of 13 digits, which Visa gives out no
more. An identifier is recalled if a placeholder of its kind covers all of it; a placeholder is
right if it covers a part of one of its kind. Precision counts what is redacted in the cases and in
the texts below that only look like it: versions, digests, CVE ids, instants, days, epochs, order
numbers, ISBNs, UUIDs, MAC addresses, coordinates, private addresses, cards and IBANs whose check
digits fail. Patterns and cases are by the same hand (on cases of another seed), so the real texts
are the harder test."""
LOOKED_AT = """\
What was redacted there beside e-mail addresses was read, all of it, on 2026-11-25. Commits: the
addresses are addresses, the key is a shortened token of an example, the two phone numbers are a
list of three test numbers (one text, twice). CVE texts: the six v4 addresses are versions. E-mail
addresses other than those known are real ones and message ids, which have their form."""
KNOWN_WRONG = """\
What to know:

- A text that holds a placeholder, because a source has `text: redact` or because somebody wrote it,
  counts as what the placeholder stands for.
- Digits alone are no phone number unless a word such as 'phone', 'call' or 'fax' stands before:
  order numbers look the same. This is why the recall of phone numbers is below that of the others;
  the locales' other misses begin with 00, which no area does.
- A v4 address whose four numbers are all below 100 is taken for a version unless 'IP', 'address',
  '://', a port or a mask says otherwise; a version with a number of 100 or more is taken for an
  address unless 'version', 'before', 'v' or the like says otherwise.
- An e-mail address goes first, so a remote such as git@host counts as one, and a password before @
  in a URL goes with it.
- ASCII only: of an address with an umlaut before @ the first letters stay. Names and postal
  addresses are not looked for."""

if __name__ == "__main__":
    sys.exit(main())
