"""Which language a text is in, how sure that is, and in which script.

pycld2 names the language; py3langid is asked as well where pycld2 is unsure or the text is short.
docs/accuracy.md says how often they are right.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.text.identify import SURE_PROBABILITY, Answer, Answers, identify
from transforms.text.measured import columns, select
from transforms.text.workers import begin_in_pool

# pycld2 refuses noncharacters and control characters other than tab, LF, FF and CR
REFUSED = r"[\x00-\x08\x0B\x0E-\x1F\x7F-\x9F\p{Noncharacter_Code_Point}]"
# addresses have no language, and pycld2 takes them for English or for none
ADDRESS = rf"https?://[^\s<>\"{REFUSED}]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]+"
NO_LANGUAGE = f"{REFUSED}|{ADDRESS}"
# the beginning of a longer text is enough, and bounds the cost of a record
N_CHARACTERS_READ = 10_000
# for fewer texts, starting workers and reading the model in each costs more than it saves
LEAST_FOR_WORKERS = 20_000
# a profile's sample, whose answers are kept
MOST_KEPT, MOST_CHARACTERS_KEPT = 10_000, 1 << 24
_kept: list[dict[str, Answer]] = [{}]
# languages that no library distinguishes in short text: the ISO 639-3 macrolanguage of both
LANGUAGE_GROUPS = {
    "id": "ms",
    "bs": "sh",
    "hr": "sh",
    "sr": "sh",
    "nn": "no",
    "ary": "ar",
    "arz": "ar",
    "wuu": "zh",
    "yue": "zh",
    "uzs": "uz",
}
LANGUAGE = {
    "language": pl.String,
    "language_group": pl.String,
    "language_score": pl.Float64,
    "is_language_reliable": pl.Int64,
    "second_language": pl.String,
}

# ISO 15924; the order decides between equal shares
SCRIPTS = (
    *(
        "Latn",
        "Cyrl",
        "Grek",
        "Arab",
        "Hebr",
        "Deva",
        "Hani",
        "Jpan",
        "Kore",
        "Beng",
        "Guru",
        "Gujr",
        "Orya",
        "Taml",
        "Telu",
        "Knda",
    ),
    *(
        "Mlym",
        "Sinh",
        "Thai",
        "Laoo",
        "Tibt",
        "Mymr",
        "Geor",
        "Armn",
        "Ethi",
        "Khmr",
        "Mong",
        "Cher",
        "Cans",
        "Thaa",
        "Syrc",
        "Yiii",
    ),
    *(
        "Bopo",
        "Tfng",
        "Nkoo",
        "Olck",
        "Java",
        "Bali",
        "Copt",
        "Goth",
        "Runr",
        "Vaii",
        "Adlm",
        "Lisu",
        "Mtei",
        "Cakm",
        "Zzzz",
    ),
)
# Japanese and Korean include the Han letters in the same text (UTS 39, section 5.1)
WRITTEN_WITH_HAN = {"Jpan": ("Hira", "Kana"), "Kore": ("Hang",)}
LATIN, HAN = SCRIPTS.index("Latn"), SCRIPTS.index("Hani")
NO_SCRIPT = "Zyyy"
# the planes of Unicode from here on have no letters
END_OF_LETTERS = 0x40000
SCRIPT = {"script": pl.String, "script_ratio": pl.Float64, "n_scripts": pl.Int64}
N_TEXTS_AT_ONCE = 8_192


def identify_language(text: pl.Series, n_workers: int | None = None) -> pl.DataFrame:
    """Name each text's language and script: the columns of `LANGUAGE` and `SCRIPT`.

    There is a row per text; a null text has nulls. `language` is an ISO 639 code, or `und` where
    there is too little text. `language_group` is the macrolanguage of languages that are hard to
    distinguish. `language_score` is the share of the text in the language, the probability where
    that is a second opinion, 0.5 where opinions differ, and 0 for `und`. `is_language_reliable` is
    1 from a score of 0.65 on. `second_language` is another that the text is or may be in.

    Equal texts are identified once. A big batch goes to as many workers as Polars has threads; that
    changes no value.

    >>> found = identify_language(pl.Series(["The weather is lovely today.", "Привет, как дела?"]))
    >>> found.select("language", "script").rows()
    [('en', 'Latn'), ('ru', 'Cyrl')]
    """
    return begin_identifying(text, n_workers)()


def begin_identifying(text: pl.Series, n_workers: int | None = None) -> Callable[[], pl.DataFrame]:
    """Begin what `identify_language` does, and return the function that waits for the result.

    Where there are workers, this process is free in the meantime.

    >>> wait = begin_identifying(pl.Series(["The weather is lovely today."]))
    >>> wait()["language"].to_list()
    ['en']
    """
    there = text.drop_nulls() if text.null_count() else text
    unique = (there.unique(maintain_order=True) if len(there) > 1 else there).rename("text")
    read, without = select(unique.to_frame(), _read()).get_columns()
    cleaned = without.to_list()
    n_workers = n_workers or (pl.thread_pool_size() if len(read) >= LEAST_FOR_WORKERS else 1)
    answers = _begin_asking(cleaned, n_workers)

    def end() -> pl.DataFrame:
        found = pl.DataFrame([*_languages(answers()), *_scripts(read)])
        if len(unique) == len(text):  # neither a null nor the same text twice
            return found
        found.insert_column(0, unique)
        return (
            text.rename("text")
            .to_frame()
            .join(found, on="text", how="left", maintain_order="left")
            .drop("text")
        )

    return end


def _begin_asking(texts: list[str], n_workers: int) -> Callable[[], Answers]:
    """Begin to name the language of different texts, but those whose answers are kept.

    Answers about few texts are kept until the next few: a run names those of a profile's sample,
    then the same texts for `record_text`.

    >>> [_begin_asking(["The weather is lovely."], 1)().languages for _ in range(2)]
    [['en'], ['en']]
    """
    (kept,) = _kept
    fresh = [text for text in texts if text not in kept]
    wait = partial(identify, fresh) if n_workers == 1 else begin_in_pool(fresh, n_workers)

    def end() -> Answers:
        answers = wait()
        if len(fresh) < len(texts):
            found = kept | dict(zip(fresh, zip(*answers, strict=True), strict=True))
            answers = Answers(*map(list, zip(*map(found.__getitem__, texts), strict=True)))
        if len(texts) <= MOST_KEPT and sum(map(len, texts)) <= MOST_CHARACTERS_KEPT:
            _kept[0] = dict(zip(texts, zip(*answers, strict=True), strict=True))
        return answers

    return end


@cache
def _read() -> list[pl.Expr]:
    read = pl.col("text").str.slice(0, N_CHARACTERS_READ)
    return [read, read.str.replace_all(NO_LANGUAGE, " ").alias("without")]


def _languages(answers: Answers) -> pl.DataFrame:
    languages, scores, seconds = answers
    groups = [LANGUAGE_GROUPS.get(language, language) for language in languages]
    are_reliable = [int(score >= SURE_PROBABILITY) for score in scores]
    answered: tuple[list[Any], ...] = (languages, groups, scores, are_reliable, seconds)
    return pl.DataFrame(
        [
            pl.Series(name, values, dtype)
            for (name, dtype), values in zip(LANGUAGE.items(), answered, strict=True)
        ]
    )


def _scripts(text: pl.Series) -> pl.DataFrame:
    """Find the script of most of each text's letters; `Zyyy` and 0 for a text without letters."""
    slices = (text.slice(start, N_TEXTS_AT_ONCE) for start in range(0, len(text), N_TEXTS_AT_ONCE))
    found = list(map(_scripts_at_once, slices))
    return pl.concat(found) if found else pl.DataFrame(schema=SCRIPT)


def _scripts_at_once(text: pl.Series) -> pl.DataFrame:
    n_letters = np.zeros((len(text), len(SCRIPTS)), np.int64)
    # most texts are ASCII: one letter is enough to know the script, so none is looked up
    is_latin, has_others = select(text.alias("text").to_frame(), _letters()).get_columns()
    n_letters[:, LATIN] = is_latin.to_numpy()
    if has_others.any():
        n_letters[has_others.to_numpy()] = _count_letters(text.filter(has_others))
    total, main = n_letters.sum(axis=1), n_letters.argmax(axis=1)
    names = [SCRIPTS[place] if n else NO_SCRIPT for place, n in zip(main, total, strict=True)]
    found = {
        "script_ratio": n_letters.max(axis=1) / np.maximum(total, 1),
        "n_scripts": (n_letters > 0).sum(axis=1),
    }
    return columns(found).insert_column(0, pl.Series("script", names, pl.String))


@cache
def _letters() -> list[pl.Expr]:
    text = pl.col("text")
    is_wide = text.str.len_bytes() != text.str.len_chars()
    return [text.str.contains("[A-Za-z]"), is_wide.alias("is_wide")]


def _count_letters(text: pl.Series) -> npt.NDArray[np.int64]:
    """Count each text's letters by script: a row per text, a column per script."""
    width = len(SCRIPTS) + 1
    characters = np.frombuffer(text.str.join("").item().encode("utf-32-le"), np.uint32)
    row = np.repeat(np.arange(len(text)), text.str.len_chars().to_numpy())
    counts = np.bincount(
        row * width + _script_numbers()[characters], minlength=len(text) * width
    ).reshape(-1, width)[:, :-1]
    for script in WRITTEN_WITH_HAN:
        column = SCRIPTS.index(script)
        n_han = np.where(counts[:, column] > 0, counts[:, HAN], 0)
        counts[:, column] += n_han
        counts[:, HAN] -= n_han
    return counts


@cache
def _script_numbers() -> npt.NDArray[np.uint8]:
    """The place in `SCRIPTS` of every letter in Unicode.

    It is one past the end for what is no letter, or is a letter of all scripts.
    """
    code_points = np.array([*range(0xD800), *range(0xE000, END_OF_LETTERS)])
    characters = pl.Series(map(chr, code_points))
    numbers = np.full(0x110000, len(SCRIPTS), np.uint8)
    numbers[
        code_points[characters.str.contains(r"[\p{L}--\p{sc=Zyyy}--\p{sc=Zinh}]").to_numpy()]
    ] = len(SCRIPTS) - 1
    is_letter = characters.str.contains(r"\p{L}")
    code_points, letters = code_points[is_letter.to_numpy()], characters.filter(is_letter)
    # a letter is of one script, and most are Han or Hangul, so these leave few to the others
    for script in sorted(SCRIPTS[:-1], key=("Hani", "Kore").__contains__, reverse=True):
        names = "".join(rf"\p{{sc={name}}}" for name in WRITTEN_WITH_HAN.get(script, (script,)))
        is_of = letters.str.contains(f"[{names}]")
        numbers[code_points[is_of.to_numpy()]] = SCRIPTS.index(script)
        code_points, letters = code_points[~is_of.to_numpy()], letters.filter(~is_of)
    return numbers
