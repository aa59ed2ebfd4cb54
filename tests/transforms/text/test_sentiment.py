"""The tone of a text, compared with VADER itself."""

import numpy as np
import polars as pl
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from tests.conftest import SAMPLE
from transforms.sources.source import list_files, load_source
from transforms.text.sentiment import measure_sentiment
from transforms.text.words import split_words

PHRASES = (
    "The support was great and the answer came quickly.",
    "The support was not great, and the answer was useless!",
    "I really love this. It is VERY good!!!",
    "It is somewhat good, but the delivery was terrible and the box was broken.",
    "Worst purchase ever? Never again???",
    "Absolutely horrible, extremely disappointed.",
    "This is a table with four legs.",
    "Nobody was hurt, thank you so much :)",
    "HORRIBLE service, but the food was nice",
    "I don't hate it.",
)


def compound(*texts: str) -> list[float]:
    text = pl.Series(texts, dtype=pl.String)
    return measure_sentiment(split_words(text), text)["sentiment_compound"].tolist()


@pytest.mark.parametrize("text", PHRASES)
def test_a_phrase_is_scored_as_vader_scores_it(text: str) -> None:
    assert compound(text)[0] == pytest.approx(
        SentimentIntensityAnalyzer().polarity_scores(text)["compound"], abs=0.05
    )


def test_real_texts_are_scored_about_as_vader_scores_them() -> None:
    file = list_files(load_source(SAMPLE)).files[20]
    texts = (
        pl.read_ndjson(file.path, schema={"text": pl.String})["text"]
        .drop_nulls()
        .unique()
        .sort()
        .head(400)
        .to_list()
    )
    vader = [SentimentIntensityAnalyzer().polarity_scores(text)["compound"] for text in texts[:400]]
    assert np.corrcoef(vader, compound(*texts))[0, 1] > 0.9


def test_words_of_the_text_before_do_not_negate() -> None:
    assert compound("it is not", "good")[1] == compound("good")[0] > 0


def test_negative_words_are_a_share_of_all() -> None:
    text = pl.Series(["a terrible, terrible day", "", "fine"])
    assert measure_sentiment(split_words(text), text)["frac_negative_words"].tolist() == [
        0.5,
        0.0,
        0.0,
    ]
