"""Name the language of each text by two libraries, in plain Python without Polars or a pool.

Where pycld2 is not installed (it has no wheel for Python 3.14), py3langid answers alone: more
slowly, and without a second language (docs/decisions/0009). The digest of the code includes the
versions of both, or that one is absent.

As a program this module is a worker of `transforms.text.workers`: it reads lists of texts and
writes lists of answers until its input ends. So a worker imports two small libraries and nothing of
its parent, and it ends when its parent does, however that happens.
"""

import math
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    import pycld2
except ImportError:
    pycld2 = None

Array: TypeAlias = npt.NDArray[Any]

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


class Answers(NamedTuple):
    """The answers about some texts, column by column: half as much to pass on as a tuple a text."""

    languages: list[str]
    scores: list[float]
    seconds: list[str | None]


def identify(texts: list[str]) -> Answers:
    """Name each text's language.

    No text may contain what pycld2 refuses; `transforms.text.language` removes it.

    >>> identify(["The weather is lovely today."]).languages
    ['en']
    """
    firsts = [_first_opinion(text) for text in texts]
    asked = [
        place
        for place, (text, first) in enumerate(zip(texts, firsts, strict=True))
        if not (first.is_sure and len(text) >= N_CHARACTERS_SURE)
    ]
    seconds = dict(zip(asked, second_opinions([texts[place] for place in asked]), strict=True))
    answers = [_decide(first, seconds.get(place)) for place, first in enumerate(firsts)]
    return Answers(*map(list, zip(*answers, strict=True))) if answers else Answers([], [], [])


class _First(NamedTuple):
    """What pycld2 says: the language, its share of the text, and another that is in it."""

    is_sure: bool = False
    language: str = UNKNOWN
    share: float = 0.0
    second: str = UNKNOWN


def _first_opinion(text: str) -> _First:
    if pycld2 is None:
        return _First()
    is_sure, _, ((_, code, percent, _), (_, second, _, _), _) = pycld2.detect(
        text, isPlainText=True
    )
    language = _iso(code)
    is_sure = is_sure and percent >= SURE_PERCENT and language != UNKNOWN
    return _First(is_sure, language, percent / 100, _iso(second))


def _decide(first: _First, opinion: tuple[str, float] | None) -> Answer:
    """Weigh what the libraries say; `opinion` is None where the first needs no second."""
    if opinion is None:
        return _answer(first.language, first.share, first.second)
    guess, probability = opinion
    if first.is_sure and guess == first.language:
        return _answer(first.language, first.share, first.second)
    least = SURE_PROBABILITY if first.is_sure else LEAST_PROBABILITY
    if guess != UNKNOWN and probability >= least:
        second = first.second if first.language == guess else first.language
        return _answer(guess, probability, second)
    if first.is_sure:
        return _answer(first.language, DISAGREED_SCORE, guess)
    return UNKNOWN, 0.0, None


def _answer(language: str, score: float, second: str) -> Answer:
    return language, score, None if second in {language, UNKNOWN} else second


def second_opinions(texts: list[str]) -> list[tuple[str, float]]:
    """Name the likeliest language of each text and its probability, by py3langid.

    They are what its `classify` says, at a third of the cost: all texts go through its automaton
    side by side. Probabilities are rounded, because the last digits of a float differ
    between machines.
    """
    if not texts:
        return []
    model = _model()
    octets = [model.encode(text[:N_CHARACTERS_SECOND]) for text in texts]
    scores = np.zeros((len(texts), len(model.languages)), np.float32)
    for row, features, counts in _features(model, octets):
        # each text by itself, for the last bits of a sum depend on the order of what is added up
        scores[row] = np.log1p(counts) @ model.weights.take(features, 0) + model.priors
    scores *= np.array([1 / math.sqrt(len(some) or 1) for some in octets], np.float32)[:, None]
    np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    for first, other in model.same_language:
        scores[:, first] += scores[:, other]
        scores[:, other] = 0
    likeliest = scores.argmax(axis=1)
    probabilities = scores[np.arange(len(texts)), likeliest].tolist()
    return [
        (_iso(model.languages[place]), round(probability, 4))
        for place, probability in zip(likeliest, probabilities, strict=True)
    ]


def _features(model: "_Model", texts: list[bytes]) -> Iterator[tuple[int, Array, Array]]:
    """For each text with any: the features in it, in order of appearance, and how often each is.

    All texts take one step of the automaton at a time, the longest first, until all have ended.
    """
    n_octets = np.array([len(text) for text in texts])
    order = np.argsort(-n_octets, kind="stable")
    starts = (np.cumsum(n_octets) - n_octets)[order]
    octets = np.frombuffer(b"".join(texts), np.uint8)
    found = np.full((len(texts), n_octets.max()), -1, np.int32)
    state = np.zeros(len(texts), np.int64)
    for step, n_longer in enumerate(len(texts) - np.cumsum(np.bincount(n_octets))[:-1]):
        state = model.next_state[model.row[state[:n_longer]] + octets[starts[:n_longer] + step]]
        found[order[:n_longer], step] = model.feature[state]
    rows, steps = np.nonzero(found >= 0)
    keys, first, counts = np.unique(
        rows * len(model.weights) + found[rows, steps], return_index=True, return_counts=True
    )
    in_order = np.argsort(first)
    keys, counts = keys[in_order], counts[in_order].astype(np.float32)
    rows, features = np.divmod(keys, len(model.weights))
    bounds = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        yield rows[start], features[start:end], counts[start:end]


class _Model(NamedTuple):
    """What py3langid has learnt: an automaton over octets, and the weights of what it finds."""

    languages: list[str]
    weights: Array
    priors: Array
    next_state: Array
    row: Array
    feature: Array
    same_language: list[tuple[int, int]]
    encode: Callable[[str], bytes]


@cache
def _model() -> _Model:
    """Read the model. It takes half a second, so it is read at first use."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    read = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return _Model(
        read.nb_classes,
        # from half precision: a third quicker, with the same answers
        read.nb_ptc.astype("float32"),
        read.nb_pc,
        np.asarray(read.tk_nextmove),
        np.asarray(read._rowbase),  # noqa: SLF001 - its automaton has no public name
        np.asarray(read.tk_output, np.int32),
        read._alias_pairs,  # noqa: SLF001
        read._encode,  # noqa: SLF001
    )


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
        # a tuple, for a class of a program's main module has another name elsewhere
        pickle.dump(tuple(identify(texts)), sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()


if __name__ == "__main__":
    # whoever interrupts the parent leaves it to the parent to end this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
