"""Name the language of each text by two libraries, in plain Python without Polars or a pool.

Where pycld2 is not installed (it has no wheel for Python 3.14), py3langid answers alone: more
slowly, and without a second language (docs/decisions/0009). The digest of the code includes the
versions of both, or that one is absent.

As a program this module is a worker of `transforms.text.workers`: it reads lists of texts and
writes lists of answers until its input ends. So a worker imports two small libraries and nothing of
its parent, and it ends when its parent does, however that happens.
"""

import pickle
import signal
import sys
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

try:
    import pycld2
except ImportError:
    pycld2 = None

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "und"
# a text this long needs no second opinion if the first is sure (docs/accuracy.md)
N_CHARACTERS_SURE = 60
# py3langid is slow, and what it needs it finds early
N_CHARACTERS_SECOND = 100
# pycld2: the least percentage of the text in its main language; py3langid: the least probability
SURE_PERCENT = 70
SURE_PROBABILITY = 0.65
# below it a guess is wrong more often than right
LEAST_PROBABILITY = 0.3
# where the two disagree and neither is sure, each is right about half the time
DISAGREED_SCORE = 0.5
# a text's language, how sure that is (0 to 1), and another that part of it is or may be in
Answer = tuple[str, float, str | None]
# answers that are no ISO 639 code, or not the code that the other library uses
CODES = {
    "iw": "he",
    "jw": "jv",
    "zh-Hant": "zh",
    "sr-ME": "sr",
    "gug": "gn",
    "kik": "ki",
    "un": UNKNOWN,
    "xxx": UNKNOWN,
    "zxx": UNKNOWN,
    "tlh": UNKNOWN,
    "zzb": UNKNOWN,
    "zze": UNKNOWN,
    "zzh": UNKNOWN,
    "zzp": UNKNOWN,
}


def identify(texts: list[str]) -> list[Answer]:
    """Name each text's language.

    No text may contain what pycld2 refuses; `transforms.text.language` removes it.

    >>> [language for language, score, second in identify(["The weather is lovely today."])]
    ['en']
    """
    return [_identify(text) for text in texts]


def _identify(text: str) -> Answer:
    if pycld2 is None:
        guess, probability = _second_opinion(text)
        return (
            (guess, probability, None)
            if guess != UNKNOWN and probability >= LEAST_PROBABILITY
            else (UNKNOWN, 0.0, None)
        )
    is_sure, _, ((_, code, percent, _), (_, second_code, _, _), _) = pycld2.detect(
        text, isPlainText=True
    )
    language, second = _iso(code), _iso(second_code)
    is_sure = is_sure and percent >= SURE_PERCENT and language != UNKNOWN
    if is_sure and len(text) >= N_CHARACTERS_SURE:
        return _answer(language, percent / 100, second)
    guess, probability = _second_opinion(text)
    if is_sure and guess == language:
        return _answer(language, percent / 100, second)
    if guess != UNKNOWN and probability >= (LEAST_PROBABILITY if not is_sure else SURE_PROBABILITY):
        return _answer(guess, probability, second if language == guess else language)
    return _answer(language, DISAGREED_SCORE, guess) if is_sure else (UNKNOWN, 0.0, None)


def _answer(language: str, score: float, second: str) -> Answer:
    return language, score, None if second in {language, UNKNOWN} else second


def _second_opinion(text: str) -> tuple[str, float]:
    """The likeliest language and its probability.

    The probability is rounded, because the last digits of a float differ between machines.
    """
    code, probability = _identifier().classify(text[:N_CHARACTERS_SECOND])
    return _iso(code), round(probability, 4)


@cache
def _identifier() -> "LanguageIdentifier":
    """The model. It takes half a second to read, so it is read at first use."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # from half precision: a third quicker, with the same answers
    identifier.nb_ptc = identifier.nb_ptc.astype("float32")
    return identifier


@cache
def _iso(code: str) -> str:
    return UNKNOWN if code.startswith("xx-") else CODES.get(code, code)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer lists of texts until there are no more."""
    while True:
        try:
            texts = pickle.load(source)  # noqa: S301 - the parent's own pipe
        except EOFError:
            return
        pickle.dump(identify(texts), sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    # whoever interrupts the parent leaves it to the parent to end this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
