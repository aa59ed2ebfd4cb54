"""How often `identify_language` is right, by length, and how fast it is beside its libraries alone.

The texts labelled by language are Django's translations (`pip install django`, or the extra
`bench`): each language's own strings without their placeholders, and the English ones. They are not
shipped.
"""

import argparse
import ast
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pycld2
from harness import ROOT, machine, say, table, write
from py3langid.langid import MODEL_FILE, LanguageIdentifier

sys.path.insert(0, str(ROOT))

from transforms.text import identify
from transforms.text.language import LANGUAGE_GROUPS, REFUSED, identify_language

LIBRARIES = ("pycld2", "py3langid", "polars", "django")
ENTRY = re.compile(
    r'^msgid ((?:"(?:[^"\\]|\\.)*"\s*)+)msgstr ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.MULTILINE
)
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>|&\w+;")
LEAST, LENGTHS, LONG = 20, (20, 40, 80), 80
N_STRINGS, N_ROUNDS = 4, 5
HEAD = """# Accuracy

How often what is said about a text is right, how that was measured, and on what. Each part is made
by the script it names.
"""
HOW = """How often the named language is right, of Django's translations: {n:,} strings of at least
20 characters in {languages} languages, cut to 20, 40 and 80 characters (those that are as long),
and whole where they have at least 80. They are terse, technical and hold English words, so they are
harder than prose. Texts in {unsupported}, which neither library knows, are left out: such a text is
taken for a neighbour. `macro` is the mean over languages. `group` counts a language as right that
shares its `language_group`. `unsure` is `is_language_reliable` = 0, `und` among them. Neither
library tells whether it has learned from these strings. Made by `benchmarks/accuracy_language.py
--write docs/accuracy.md`.

On {machine}"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="measure how often the named language is right, and how fast it is named"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/accuracy.md",
    )
    arguments = parser.parse_args()
    if find_spec("django") is None:
        say("Django's translations are the labelled texts: pip install django")
        return 2
    load = os.getloadavg()[0]
    texts = translations()
    judged = pl.concat([judge(cut(texts, length), length) for length in (*LENGTHS, None)])
    report = "\n\n".join([*accuracy(judged, load), *speed(texts)])
    print(report)
    if arguments.write:
        if not arguments.write.exists():
            arguments.write.write_text(HEAD, "utf-8")
        write(arguments.write, "language", report)
    return 0


def translations() -> pl.DataFrame:
    """Every distinct translated string: `language`, `text`."""
    folder = Path(next(iter(find_spec("django").submodule_search_locations)))
    pairs = {pair for path in folder.rglob("*.po") for pair in strings(path)}
    texts = pl.DataFrame(sorted(pairs), schema=["language", "text"], orient="row")
    return texts.filter(pl.col("text").str.len_chars() >= LEAST)


def strings(path: Path) -> Iterator[tuple[str, str]]:
    locale = path.parts[-3]
    language = {"nb": "no"}.get(locale, locale.split("_")[0])
    for source, translated in ENTRY.findall(path.read_text("utf-8")):
        english, other = plain(source), plain(translated)
        yield "en", english
        if (
            english and language != "en" and other != english
        ):  # without a source it is the file's own header
            yield language, other


def plain(quoted: str) -> str:
    text = "".join(ast.literal_eval(line) for line in quoted.strip().splitlines())
    return " ".join(PLACEHOLDER.sub(" ", text).split())


def known_languages() -> set[str]:
    names = set(pycld2.DETECTED_LANGUAGES)
    detected = {code for name, code in pycld2.LANGUAGES if name in names}
    return {identify.CODES.get(code, code) for code in detected | set(py3langid().labels)} - {
        identify.UNKNOWN
    }


def py3langid() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def cut(texts: pl.DataFrame, length: int | None) -> pl.DataFrame:
    long_enough = texts.filter(pl.col("text").str.len_chars() >= (length or LONG))
    return long_enough.with_columns(pl.col("text").str.slice(0, length)) if length else long_enough


def judge(texts: pl.DataFrame, length: int | None) -> pl.DataFrame:
    """List the language found for each text, by us and by each library alone."""
    say(f"naming {texts.height:,} texts of {length or 'full'} characters")
    ours = identify_language(texts["text"], n_workers=1)
    second = py3langid()
    cleaned = texts["text"].str.replace_all(REFUSED, " ")
    alone = {
        "pycld2": [pycld2.detect(text, isPlainText=True)[2][0][1] for text in cleaned],
        "py3langid": [second.classify(text)[0] for text in cleaned],
    }
    codes = pl.DataFrame(alone).select(pl.all().replace(identify.CODES))
    named = ours.select(
        said="language",
        score="language_score",
        group="language_group",
        is_reliable=pl.col("is_language_reliable") == 1,
    )
    return pl.concat([texts.select("language"), named, codes], how="horizontal").with_columns(
        length=pl.lit(str(length or "full"))
    )


def accuracy(judged: pl.DataFrame, load: float) -> list[str]:
    known = known_languages()
    unsupported = ", ".join(sorted(set(judged["language"]) - known))
    judged = judged.filter(pl.col("language").is_in(list(known))).with_columns(
        is_right=pl.col("said") == pl.col("language")
    )
    base = judged.filter(pl.col("length") == str(LEAST))
    how = HOW.format(
        n=base.height,
        languages=base["language"].n_unique(),
        unsupported=unsupported,
        machine=machine(load, LIBRARIES),
    )
    return [
        "## Language",
        how,
        by_length(judged),
        "Right by `language_score`:",
        by_score(judged),
        *mistakes(judged),
        by_language(judged),
    ]


def by_length(judged: pl.DataFrame) -> str:
    right, true = pl.col("is_right"), pl.col("language")
    rows = []
    for (length,), part in judged.group_by("length", maintain_order=True):
        micro = part.select(
            right.mean(),
            (pl.col("group") == true.replace(LANGUAGE_GROUPS)).mean().alias("group"),
            (pl.col("pycld2") == true).mean().alias("pycld2"),
            (pl.col("py3langid") == true).mean().alias("py3langid"),
            (~pl.col("is_reliable")).mean().alias("unsure"),
            right.filter(pl.col("is_reliable")).mean().alias("right where sure"),
        )
        macro = part.group_by("language").agg(right.mean())["is_right"].mean()
        shares = [micro.item(0, 0), macro, *micro.row(0)[1:]]
        rows.append([length, f"{part.height:,}", *(f"{share:.3f}" for share in shares)])
    header = [
        "characters",
        "texts",
        "right",
        "macro",
        "group",
        "pycld2 alone",
        "py3langid alone",
        "unsure",
        "right where sure",
    ]
    return table(header, rows)


def by_score(judged: pl.DataFrame) -> str:
    score = pl.col("score")
    bounds = [("0 (`und`)", score == 0), ("0.3 to 0.65", score.is_between(0.3, 0.65, "left"))]
    bounds += [
        (f"{low} to {high}", score.is_between(low, high, "left"))
        for low, high in ((0.65, 0.8), (0.8, 0.9), (0.9, 1.01))
    ]
    rows = []
    for name, within in bounds:
        cells = [
            judged.filter(within, pl.col("length") == length)["is_right"]
            for length in ("20", "40", "full")
        ]
        rows.append(
            [
                name.replace("1.01", "1"),
                *(f"{part.mean() or 0:.2f} of {len(part):,}" for part in cells),
            ]
        )
    return table(["score", "20 characters", "40 characters", "full"], rows)


def mistakes(judged: pl.DataFrame) -> list[str]:
    """Name the commonest mistakes at the shortest and the full length."""
    lines = []
    for length in ("20", "full"):
        wrong = judged.filter(
            ~pl.col("is_right"), pl.col("length") == length, pl.col("said") != identify.UNKNOWN
        )
        common = (
            wrong.group_by("language", "said")
            .len()
            .sort(["len", "language", "said"], descending=[True, False, False])
            .head(12)
        )
        listed = ", ".join(f"{true} as {said} {n}" for true, said, n in common.iter_rows())
        lines.append(
            f"Commonest mistakes of {wrong.height:,} "
            f"({length if length == 'full' else f'{length} characters'}): {listed}."
        )
    return lines


def by_language(judged: pl.DataFrame) -> str:
    shares = judged.group_by("language", "length").agg(pl.col("is_right").mean().round(2), pl.len())
    lengths = list(dict.fromkeys(judged["length"]))
    cell = {
        (language, length): f"{right:.2f} of {n}"
        for language, length, right, n in shares.iter_rows()
    }
    rows = [
        [language, *(cell.get((language, length), "-") for length in lengths)]
        for language in sorted(set(judged["language"]))
    ]
    summary = "<details><summary>Share right, by language</summary>\n\n"
    return f"{summary}{table(['language', *lengths], rows)}\n\n</details>"


def speed(texts: pl.DataFrame) -> list[str]:
    """Time naming of three kinds of text, each way in turns."""
    kinds = {
        "English (CVE)": english(),
        "all languages": joined(texts),
        "all, 40 characters": cut(texts, 40)["text"].unique(),
    }
    about = (
        f"Speed, best of {N_ROUNDS} rounds in turns, models loaded: texts a processor second, "
        "`pycld2` alone a text at a time; the last"
        " column is how many times sooner two workers are done, which takes two idle "
        "processors. `all languages` are these strings, joined."
    )
    header = ["", "texts", "bytes", "pycld2 alone", "`identify_language`", "2 workers"]
    return [about, table(header, [[name, *speed_of(many)] for name, many in kinds.items()])]


def speed_of(many: pl.Series) -> list[str]:
    cleaned = many.str.replace_all(REFUSED, " ").to_list()
    ways: list[Callable[[], object]] = [
        lambda: [pycld2.detect(text, isPlainText=True) for text in cleaned],
        lambda: identify_language(many, n_workers=1),
        lambda: identify_language(many, n_workers=2),
    ]
    for way in ways:
        way()  # reads the models, starts the workers
    rounds = [[timed(way) for way in ways] for _ in range(N_ROUNDS)]
    seconds, processor = (
        [min(took[way][kind] for took in rounds) for way in range(len(ways))] for kind in (0, 1)
    )
    rates = [f"{len(many) / took:,.0f}" for took in processor[:2]]
    return [
        f"{len(many):,}",
        f"{many.str.len_bytes().mean():.0f}",
        *rates,
        f"{seconds[1] / seconds[2]:.2f}",
    ]


def timed(way: Callable[[], object]) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - start, time.process_time() - processor


def english() -> pl.Series:
    """The sample's descriptions, cut to the length of a short message."""
    sample = (
        pl.scan_ndjson(ROOT / "sources" / "data" / "cve_events", schema={"text": pl.String})
        .drop_nulls()
        .collect()
    )
    return sample["text"].str.slice(0, 320).unique()


def joined(texts: pl.DataFrame) -> pl.Series:
    """Several strings of one language to a text, each string followed by others in two orders."""
    orders = [texts.sample(fraction=1, shuffle=True, seed=seed) for seed in (1, 2)]
    parts = [
        pl.col("text"),
        *(pl.col("text").shift(-step).over("language") for step in range(1, N_STRINGS)),
    ]
    return (
        pl.concat(
            order.select(pl.concat_str(parts, separator=" ", ignore_nulls=True)) for order in orders
        )
        .to_series()
        .unique()
    )


if __name__ == "__main__":
    sys.exit(main())
