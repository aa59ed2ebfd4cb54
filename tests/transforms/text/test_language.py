"""`identify_language`: many languages, hostile text, scripts by hand, harmless worker processes."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from transforms.text import identify, language, workers
from transforms.text.language import LANGUAGE, LANGUAGE_GROUPS, SCRIPT, SCRIPTS, identify_language
from transforms.text.workers import WorkerEndedError

pycld2 = identify.pycld2
needs_pycld2 = pytest.mark.skipif(
    pycld2 is None, reason="pycld2 is not installed: it has no wheel for this Python"
)


SENTENCES = {
    "en": "Everyone may say what they think without fear.",
    "de": "Jeder Mensch darf ohne Angst sagen, was er denkt.",
    "fr": "Chacun peut dire sans crainte ce qu'il pense.",
    "es": "Toda persona puede decir sin miedo lo que piensa.",
    "it": "Ognuno può dire senza paura quello che pensa.",
    "pt": "Toda a gente pode dizer sem medo aquilo que pensa.",
    "nl": "Iedereen mag zonder angst zeggen wat hij denkt.",
    "sv": "Alla får utan rädsla säga vad de tycker.",
    "da": "Alle må uden frygt sige, hvad de selv mener.",
    "fi": "Jokainen saa pelkäämättä sanoa, mitä ajattelee.",
    "pl": "Każdy może bez strachu powiedzieć, co myśli.",
    "cs": "Každý může beze strachu říci, co si myslí.",
    "hu": "Mindenki félelem nélkül elmondhatja, amit gondol.",
    "ro": "Oricine poate spune fără teamă ceea ce gândește.",
    "tr": "Herkes ne düşündüğünü korkmadan söyleyebilir.",
    "lt": "Kiekvienas gali be baimės pasakyti, ką galvoja.",
    "et": "Igaüks võib kartmata öelda, mida ta mõtleb.",
    "vi": "Mọi người đều có thể nói điều mình nghĩ mà không sợ hãi.",
    "sw": "Kila mtu anaweza kusema anachofikiri bila woga.",
    "ru": "Каждый может без страха сказать, что он думает.",
    "uk": "Кожен може без страху сказати, що він думає.",
    "bg": "Всеки човек може без страх да каже това, което мисли.",
    "el": "Ο καθένας μπορεί να πει χωρίς φόβο αυτό που σκέφτεται.",  # noqa: RUF001 - Greek
    "ar": "يمكن لكل شخص أن يقول ما يفكر فيه دون خوف.",
    "fa": "هر کس می‌تواند بدون ترس آنچه را فکر می‌کند بگوید.",
    "he": "כל אדם רשאי לומר בלי פחד את מה שהוא חושב.",
    "hi": "हर कोई बिना डर के कह सकता है कि वह क्या सोचता है।",
    "th": "ทุกคนพูดสิ่งที่ตนคิดได้โดยไม่ต้องกลัว",
    "ja": "誰でも恐れずに自分の考えを言うことができます。",
    "ko": "누구나 두려움 없이 자신의 생각을 말할 수 있다.",
    "zh": "每个人都可以毫无恐惧地说出自己的想法。",
}
NOT_A_LANGUAGE = [
    "",
    " \t\r\n",
    "12345 67,8 %",
    "😀🎉👍🏽",
    "\u0301\u0308",
    "\x00\x01\x1b[0m",
    "\x80\x85\x9f",
    "\ufffe\ufdd0",
    "https://example.org/a?b=c",
]
HOSTILE = st.text(
    alphabet=st.sampled_from(
        "aé日かñ\u0301\u200d\u202e\x00\x85\x9f\ufffe\ufdd0\U0010ffff😀 \n@.:/"
    ),
    max_size=40,
)
TEXTS = st.lists(
    st.one_of(st.none(), st.text(max_size=60), HOSTILE, st.sampled_from(list(SENTENCES.values()))),
    max_size=8,
)


def named(*texts: str | None, n_workers: int = 1) -> pl.DataFrame:
    language._kept[0] = {}
    return identify_language(pl.Series("text", texts, pl.String), n_workers)


def test_every_sentence_is_named_and_sure() -> None:
    found = named(*SENTENCES.values())
    said = dict(
        zip(SENTENCES, found.select("language", "is_language_reliable").iter_rows(), strict=True)
    )
    assert {code: answer for code, answer in said.items() if answer != (code, 1)} == {}


@pytest.mark.parametrize("text", NOT_A_LANGUAGE)
def test_what_is_in_no_language_is_undetermined(text: str) -> None:
    assert named(text).select(*LANGUAGE).row(0) == ("und", "und", 0.0, 0, None)


def test_without_pycld2_every_sentence_is_named_and_what_is_no_language_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identify, "pycld2", None)
    found = named(*SENTENCES.values(), *NOT_A_LANGUAGE)
    said = list(
        zip(
            [*SENTENCES, *["und"] * len(NOT_A_LANGUAGE)],
            found["language"],
            found["language_score"],
            strict=True,
        )
    )
    assert [answer for answer in said if answer[0] != answer[1]] == []
    assert [answer for answer in said if (answer[1] == "und") != (answer[2] == 0)] == []
    assert found["second_language"].null_count() == found.height


def test_null_gives_nulls_and_no_text_gives_no_rows() -> None:
    found = named(None, SENTENCES["de"], None)
    assert found["language"].to_list() == [None, "de", None]
    assert found.row(0) == (None,) * len(found.columns)
    assert named().schema == pl.Schema(LANGUAGE | SCRIPT)


@given(TEXTS)
def test_any_texts_give_a_row_each_within_range(texts: list[str | None]) -> None:
    found = named(*texts)
    assert found.schema == pl.Schema(LANGUAGE | SCRIPT)
    assert [value is None for value in found["language"]] == [text is None for text in texts]
    said = found.drop_nulls("language")
    assert said.filter(~pl.col("language").str.contains(r"^[a-z]{2,3}$")).is_empty()
    assert said.filter(
        ~pl.col("language_score").is_between(0, 1) | ~pl.col("script_ratio").is_between(0, 1)
    ).is_empty()
    assert said.filter((pl.col("language") == "und") != (pl.col("language_score") == 0)).is_empty()
    assert said.filter(
        (pl.col("language_score") >= 0.65) != (pl.col("is_language_reliable") == 1)
    ).is_empty()
    assert said.filter(
        (pl.col("second_language") == pl.col("language")) | (pl.col("second_language") == "und")
    ).is_empty()
    assert said.filter((pl.col("n_scripts") == 0) != (pl.col("script") == "Zyyy")).is_empty()
    assert set(said["script"]) <= {*SCRIPTS, "Zyyy"}


@given(TEXTS)
def test_the_language_of_a_text_does_not_depend_on_other_texts(texts: list[str | None]) -> None:
    assert named(*texts).equals(pl.concat([named(), *(named(text) for text in texts)]))


@needs_pycld2
def test_every_character_can_be_read() -> None:
    """Each of the 1.1 million, also those that pycld2 refuses, among letters."""
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    assert named(*pieces)["language"].null_count() == 0
    with pytest.raises(pycld2.error):
        pycld2.detect("a\ufffe", isPlainText=True)


def test_a_megabyte_is_read_at_its_beginning_only() -> None:
    start = time.perf_counter()
    found = named(SENTENCES["de"] + " x" * 500_000, (SENTENCES["fr"] + " ") * 20_000)
    assert found["language"].to_list()[1] == "fr"
    assert time.perf_counter() - start < 10


def test_addresses_do_not_count() -> None:
    addresses = (
        " https://www.example.org/docs/getting-started/index.html?page=introduction "
        "jane.doe@mail.example.com"
    )
    assert named(SENTENCES["sv"] + addresses).equals(named(SENTENCES["sv"] + "  "))


@needs_pycld2
def test_where_the_two_disagree_and_neither_is_sure_the_score_is_a_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identify, "second_opinions", lambda _: [("nl", 0.6)])
    assert named("thanks a lot").select("language", "language_score", "second_language").row(0) == (
        "en",
        0.5,
        "nl",
    )
    monkeypatch.setattr(identify, "second_opinions", lambda _: [("nl", 0.7)])
    assert named("thanks a lot").select("language", "language_score", "second_language").row(0) == (
        "nl",
        0.7,
        "en",
    )


def test_second_opinions_are_those_of_py3langid_to_the_last_digit() -> None:
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    one_by_one.nb_ptc = one_by_one.nb_ptc.astype("float32")
    texts = [
        text[start : start + length]
        for text in SENTENCES.values()
        for start in (0, 7)
        for length in (1, 9, 40, 100)
    ]
    texts += ["", "\t", "ABC DEF", "e\u0301", *(" ".join(SENTENCES.values()), "日本語 " * 60)]
    said = [one_by_one.classify(text[: identify.N_CHARACTERS_SECOND]) for text in texts]
    assert identify.second_opinions(texts) == [
        (identify._iso(code), round(probability, 4)) for code, probability in said
    ]
    assert [identify.second_opinions([text])[0] for text in texts] == identify.second_opinions(
        texts
    )


@needs_pycld2
def test_a_long_text_in_two_languages_names_both() -> None:
    assert named(f"{SENTENCES['ru']} {SENTENCES['ru']} {SENTENCES['el']}").select(
        "language", "second_language"
    ).row(0) == ("ru", "el")


@needs_pycld2
def test_every_code_is_an_iso_code_and_has_a_group() -> None:
    names = set(pycld2.DETECTED_LANGUAGES)
    answers = {code for name, code in pycld2.LANGUAGES if name in names}
    answers |= set(LanguageIdentifier.from_model_file(MODEL_FILE).labels)
    said = {identify._iso(code) for code in answers}
    assert [code for code in said if not (code.isalpha() and len(code) in {2, 3})] == []
    assert set(LANGUAGE_GROUPS) <= said
    assert not set(LANGUAGE_GROUPS.values()) & set(LANGUAGE_GROUPS)


def test_every_letter_of_unicode_has_its_script_looked_up() -> None:
    past = pl.Series(map(chr, range(language.END_OF_LETTERS, 0x110000)))
    assert not past.str.contains(r"\p{L}").any()


@pytest.mark.parametrize(
    ("text", "script", "ratio", "n_scripts"),
    [
        ("plain", "Latn", 1.0, 1),
        ("naïve", "Latn", 1.0, 1),
        ("“1”", "Zyyy", 0.0, 0),
        ("да yes", "Latn", 0.6, 2),
        ("да, no да", "Cyrl", 4 / 6, 2),
        ("漢字とカナ", "Jpan", 1.0, 1),
        ("漢字", "Hani", 1.0, 1),
        ("漢字 한국", "Kore", 1.0, 1),
        ("ᚠ ab", "Latn", 2 / 3, 2),
        ("𐤀𐤁", "Zzzz", 1.0, 1),
        ("กab", "Latn", 2 / 3, 2),
        ("ая bc", "Latn", 0.5, 2),
    ],
)
def test_script(text: str, script: str, ratio: float, n_scripts: int) -> None:
    assert named(text).select(*SCRIPT).row(0) == (script, pytest.approx(ratio), n_scripts)


def test_workers_name_as_this_process_does_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "N_TEXTS_A_MESSAGE", 7)
    texts = [
        f"{text} {number}"[:length]
        for number, length in enumerate((5, 15, 30, 99))
        for text in SENTENCES.values()
    ]
    texts += [None, *NOT_A_LANGUAGE]
    assert named(*texts, n_workers=2).equals(named(*texts))


def test_answers_about_few_texts_are_kept_until_the_next_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = list(SENTENCES.values())[:4], list(SENTENCES.values())[2:8]
    expected = [named(*texts) for texts in (second, first[::-1])]
    asked: list[str] = []
    identify_texts = identify.identify
    monkeypatch.setattr(
        language, "identify", lambda texts: asked.extend(texts) or identify_texts(texts)
    )
    monkeypatch.setattr(language, "MOST_KEPT", 4)
    monkeypatch.setattr(language, "_kept", [{}])
    identify_language(pl.Series(first))
    assert identify_language(pl.Series(second)).equals(expected[0])  # more than are kept
    assert identify_language(pl.Series(first[::-1])).equals(expected[1])
    assert asked == first + second[2:]


def test_only_a_big_batch_goes_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(language, "LEAST_FOR_WORKERS", 3)
    monkeypatch.setattr(pl, "thread_pool_size", lambda: 2)
    monkeypatch.setattr(
        language,
        "begin_in_pool",
        lambda texts, n: asked.append(n) or partial(identify.identify, texts),
    )
    for texts in (["a", "b", "b", "b"], ["a", "b", "c"]):
        identify_language(pl.Series(texts))
    assert asked == [2]


def test_a_killed_worker_is_reported_and_the_next_batch_starts_again() -> None:
    texts = list(SENTENCES.values())
    expected = identify.identify(texts)
    assert workers.begin_in_pool(texts, 1)() == expected
    os.kill(workers._pool(os.getpid(), 1).workers[0].process_id, signal.SIGKILL)
    with pytest.raises(WorkerEndedError, match="ended early"):
        workers.begin_in_pool(texts, 1)()
    assert workers.begin_in_pool(texts, 1)() == expected


PARENT = """
import os, sys, time
from transforms.text import workers
workers.begin_in_pool(["Jeder Mensch darf sagen, was er denkt."], 2)()
print(*(worker.process_id for worker in workers._pool(os.getpid(), 2).workers), flush=True)
{rest}
"""


@pytest.mark.parametrize("rest", ["time.sleep(60)", "", "raise SystemExit(3)"])
def test_workers_end_with_their_parent(rest: str) -> None:
    """Killed midway, at its end, at an error; the script has no guard around its main part."""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(rest=rest)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as parent:
        assert parent.stdout
        process_ids = [int(word) for word in parent.stdout.readline().split()]
        assert len(process_ids) == 2
        if rest.startswith("time"):
            parent.kill()
        parent.wait(30)
    until = time.monotonic() + 10
    while (
        alive := [number for number in process_ids if is_running(number)]
    ) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive == []


def is_running(process_id: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        os.kill(process_id, 0)
        status = Path(f"/proc/{process_id}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_imports_neither_polars_nor_the_package() -> None:
    asked = (
        f"import sys; sys.argv = ['x']; import runpy; runpy.run_path({identify.__file__!r}); "
        "print(*sys.modules)"
    )
    imported = subprocess.run(
        [sys.executable, "-P", "-c", asked], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"polars", "transforms", "prefect"} & set(imported) == set()


@given(st.lists(st.sampled_from(["https://", "a@b.org", "x", "\0", "\x85", "\ufdd0", " "])))
def test_an_address_ends_at_what_pycld2_refuses(pieces: list[str]) -> None:
    text = pl.Series(["".join(pieces)])
    plain = text.str.replace_all(language.REFUSED, " ")
    without_addresses = plain.str.replace_all(language.ADDRESS, " ")
    assert text.str.replace_all(language.NO_LANGUAGE, " ").equals(without_addresses)
