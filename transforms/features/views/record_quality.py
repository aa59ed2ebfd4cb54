"""How usable a record's text is."""

import polars as pl

from transforms.features import Field, RecordView
from transforms.features.declare import Checked, check
from transforms.text.quality import score_quality

GOPHER = "Rae et al. 2021, arXiv:2112.11446, table A1"
DOC_STATS = "datatrove DocStats"
C4 = "Raffel et al. 2020, arXiv:1910.10683"


class RecordQuality(RecordView, complete=True):
    """How usable a record's text is: its shape, its mix of characters, its repetition.

    All null once it is a tombstone.
    """

    n_characters: int = Field.count("Unicode characters.", f"{DOC_STATS} length")
    n_bytes: int = Field.count("Bytes of its UTF-8 form.")
    n_words: int = Field.count(
        "Runs of non-blank characters (blank: the six of ASCII); an unspaced script counts one "
        "word a run.",
        GOPHER,
    )
    n_lines: int = Field.count(
        "Lines, a last one without a line feed too.", "datatrove LineStats n_lines"
    )
    n_sentences: int = Field.count(
        "Runs of '.', '!' or '?' that end a word; 1 if a text has none.",
        "C4 num_sentences, simplified",
    )
    n_urls: int = Field.count("Starts of http:// or https:// addresses.")
    n_email_addresses: int = Field.count("Strings shaped like an e-mail address.")
    n_numbers: int = Field.count("Runs of ASCII digits.")
    n_question_marks: int = Field.count("Question marks.")
    n_exclamation_marks: int = Field.count("Exclamation marks.")
    mean_word_length: float = Field.measure(
        "Non-blank characters per word; 0 if there is no word. Gopher keeps 3 to 10.", GOPHER
    )
    whitespace_ratio: float = Field.ratio(
        "ASCII blanks per character.", f"{DOC_STATS} white_space_ratio"
    )
    uppercase_ratio: float = Field.ratio(
        "ASCII capitals per character.", f"{DOC_STATS} uppercase_ratio"
    )
    digit_ratio: float = Field.ratio("ASCII digits per character.", f"{DOC_STATS} digit_ratio")
    punctuation_ratio: float = Field.ratio(
        "ASCII punctuation per character.", f"{DOC_STATS} punctuation_ratio"
    )
    non_ascii_ratio: float = Field.ratio("Characters outside ASCII per character.")
    unique_word_ratio: float = Field.ratio(
        "Distinct words per word (type-token ratio); 0 if there is no word.",
        "RedPajama-V2 frac_unique_words",
    )
    duplicate_line_ratio: float = Field.ratio(
        "Lines that repeat an earlier line, per line. Gopher keeps up to 0.3.", GOPHER
    )
    bullet_line_ratio: float = Field.ratio(
        "Lines that begin with a bullet (-, *, •), per line. Gopher keeps up to 0.9.", GOPHER
    )
    symbol_to_word_ratio: float = Field.measure(
        "Number signs and ellipses per word. Gopher keeps up to 0.1.", GOPHER
    )

    @check(name="n_characters:null_beside_values")
    def _all_or_none(cls, data: Checked) -> pl.LazyFrame:  # noqa: N805
        times = ("record_id", "event_timestamp", "created_timestamp")
        n_features = len(data.lazyframe.collect_schema()) - len(times)
        n_nulls = pl.sum_horizontal(pl.all().exclude(times).is_null())
        return data.lazyframe.select(n_nulls.is_in([0, n_features]))

    compute = staticmethod(score_quality)
