"""Contracts of the feature relations. Feast fields, the catalogue and the docs are made from these; nothing lists them again.

`event_timestamp` is on the timeline of knowledge: the instant from which a row's values could be known. A newer
`created_timestamp` wins where an instant was computed again.
"""

from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

from transforms.schemas.base import Contract

GOPHER = "Rae et al. 2021, arXiv:2112.11446, table A1"
DOC_STATS = "datatrove DocStats"
LEE = "Lee et al. 2022, arXiv:2107.06499"
PRESIDIO = "presidio entity"
C4 = "Raffel et al. 2020, arXiv:1910.10683"
FINEWEB = "Penedo et al. 2024, arXiv:2406.17557"
VADER = "Hutto & Gilbert 2014, VADER"


def _count(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})


def _total(description: str) -> Any:
    """Count or sum over records: 0 where none counts."""
    return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": None, "empty": 0})


def _ratio(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, le=1, nullable=True, description=description, metadata={"origin": origin})


def _number(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})


def _any_number(description: str, origin: str | None = None) -> Any:
    return pa.Field(nullable=True, description=description, metadata={"origin": origin})


def _word(description: str, origin: str | None = None) -> Any:
    return pa.Field(nullable=True, description=description, metadata={"origin": origin})


def _flag(description: str) -> Any:
    return pa.Field(isin=(0, 1), nullable=True, description=description, metadata={"origin": None})


def _vector(description: str, length: int, origin: str | None = None) -> Any:
    return pa.Field(nullable=True, description=description, metadata={"origin": origin, "vector_length": length})


def _instant(description: str) -> Any:
    return pa.Field(description=description)


class RecordQuality(Contract):
    """How usable a record's text is: its shape, its mix of characters, its repetition. All null once it is a tombstone."""

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    n_characters: int = _count("Unicode characters.", f"{DOC_STATS} length")
    n_bytes: int = _count("Bytes of its UTF-8 form.")
    n_words: int = _count("Runs of non-blank characters (blank: the six of ASCII); an unspaced script counts one word a run.", GOPHER)
    n_lines: int = _count("Lines, a last one without a line feed too.", "datatrove LineStats n_lines")
    n_sentences: int = _count("Runs of '.', '!' or '?' that end a word; 1 if a text has none.", "C4 num_sentences, simplified")
    n_urls: int = _count("Starts of http:// or https:// addresses.")
    n_email_addresses: int = _count("Strings shaped like an e-mail address.")
    n_numbers: int = _count("Runs of ASCII digits.")
    n_question_marks: int = _count("Question marks.")
    n_exclamation_marks: int = _count("Exclamation marks.")
    mean_word_length: float = _number("Non-blank characters per word; 0 if there is no word. Gopher keeps 3 to 10.", GOPHER)
    whitespace_ratio: float = _ratio("ASCII blanks per character.", f"{DOC_STATS} white_space_ratio")
    uppercase_ratio: float = _ratio("ASCII capitals per character.", f"{DOC_STATS} uppercase_ratio")
    digit_ratio: float = _ratio("ASCII digits per character.", f"{DOC_STATS} digit_ratio")
    punctuation_ratio: float = _ratio("ASCII punctuation per character.", f"{DOC_STATS} punctuation_ratio")
    non_ascii_ratio: float = _ratio("Characters outside ASCII per character.")
    unique_word_ratio: float = _ratio(
        "Distinct words per word (type-token ratio); 0 if there is no word.", "RedPajama-V2 frac_unique_words"
    )
    duplicate_line_ratio: float = _ratio("Lines that repeat an earlier line, per line. Gopher keeps up to 0.3.", GOPHER)
    bullet_line_ratio: float = _ratio("Lines that begin with a bullet (-, *, •), per line. Gopher keeps up to 0.9.", GOPHER)
    symbol_to_word_ratio: float = _number("Number signs and ellipses per word. Gopher keeps up to 0.1.", GOPHER)

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.record_quality"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012

    @pa.dataframe_check(name="n_characters:null_beside_values")
    def _all_or_none(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        values = pl.all().exclude("record_id", "event_timestamp", "created_timestamp").is_null()
        return data.lazyframe.select(pl.all_horizontal(values) | ~pl.any_horizontal(values))


class RecordPii(Contract):
    """Which identifiers a record's text gives away, counted by kind. All null once it is a tombstone.

    A placeholder such as `<EMAIL_ADDRESS>` counts as what it stands for, so a text that staging holds redacted counts the same.
    """

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    pii_email_address_count: int = _count("E-mail addresses, by their shape.", f"{PRESIDIO} EMAIL_ADDRESS")
    pii_phone_number_count: int = _count(
        "Phone numbers: with a calling code, in the forms of North America or with a leading 0 in groups, or after a word such as 'phone'.",
        f"{PRESIDIO} PHONE_NUMBER",
    )
    pii_iban_code_count: int = _count("Bank accounts (IBAN) of the country's length whose check digits hold (mod 97).", "ISO 13616")
    pii_credit_card_count: int = _count("Payment cards: issuer, length and check digit (Luhn) hold.", "ISO/IEC 7812")
    pii_ip_address_count: int = _count(
        "Public IP addresses, v4 and v6; a private one does not count, nor does a v4 one that reads as a version.", f"{PRESIDIO} IP_ADDRESS"
    )
    pii_us_ssn_count: int = _count("US social security numbers in groups, or after 'SSN'.", f"{PRESIDIO} US_SSN")
    pii_uk_nino_count: int = _count("UK national insurance numbers.", f"{PRESIDIO} UK_NINO")
    pii_uk_nhs_count: int = _count("UK NHS numbers after 'NHS' whose check digit holds (mod 11).", f"{PRESIDIO} UK_NHS")
    pii_api_key_count: int = _count(
        "Keys and secrets: tokens of known shape, private key blocks, bearer tokens, assigned passwords that look drawn at random."
    )
    pii_any: int = pa.Field(ge=0, le=1, nullable=True, description="1 if there is any, else 0.", metadata={"origin": None})

    class Config(Contract.Config):
        """Relation and key."""

        name = "features.record_pii"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012


class RecordText(Contract):
    """What a record's text is like: language, tone, repetition, lines, characters. Null once it is a tombstone.

    What is measured on English words alone is null in any other language. Thresholds are those of the papers; none is applied.
    """

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    language: str = _word("ISO 639 code of the language; 'und' where there is too little to tell.", "pycld2, then py3langid")
    language_group: str = _word("The macrolanguage of languages told apart badly (ms for id; sh for bs, hr, sr), else the language.")
    language_score: float = _ratio("Share of the text in the language, or its probability. FineWeb keeps from 0.65.", FINEWEB)
    is_language_reliable: int = _flag("Whether the score is 0.65 or more.")
    second_language: str = _word("What else the text is in, or may be in; null if nothing.")
    script: str = _word("ISO 15924 code of the script of most letters; Zyyy where there is no letter.")
    script_ratio: float = _ratio("Share of the letters that are of that script.")
    n_scripts: int = _count("Scripts that letters are of.")
    n_tokens_est: int = _count("Tokens of a byte-pair encoding, estimated as 0.28 a byte.")
    automated_readability_index: float = _any_number("School grade by characters, words and sentences; English.", "Smith & Senter 1967")
    coleman_liau_index: float = _any_number("School grade by letters, words and sentences; English.", "Coleman & Liau 1975")
    sentiment_compound: float = pa.Field(
        ge=-1, le=1, nullable=True, description="Tone from -1 to 1, by a lexicon: a proxy; English.", metadata={"origin": VADER}
    )
    frac_negative_words: float = _ratio("Words with a negative valence, per word: a proxy; English.", VADER)
    stop_word_fraction: float = _ratio("'the be to of and that have with' per word; English. Gopher wants two of them.", GOPHER)
    frac_chars_top_2gram: float = _ratio("Characters in the most frequent repeated word 2-gram. Gopher keeps up to 0.2.", GOPHER)
    frac_chars_top_3gram: float = _ratio("Characters in the most frequent repeated word 3-gram. Gopher keeps up to 0.18.", GOPHER)
    frac_chars_top_4gram: float = _ratio("Characters in the most frequent repeated word 4-gram. Gopher keeps up to 0.16.", GOPHER)
    frac_chars_dupe_5grams: float = _ratio("Characters in repeated word 5-grams. Gopher keeps up to 0.15.", GOPHER)
    frac_chars_dupe_6grams: float = _ratio("Characters in repeated word 6-grams. Gopher keeps up to 0.14.", GOPHER)
    frac_chars_dupe_7grams: float = _ratio("Characters in repeated word 7-grams. Gopher keeps up to 0.13.", GOPHER)
    frac_chars_dupe_8grams: float = _ratio("Characters in repeated word 8-grams. Gopher keeps up to 0.12.", GOPHER)
    frac_chars_dupe_9grams: float = _ratio("Characters in repeated word 9-grams. Gopher keeps up to 0.11.", GOPHER)
    frac_chars_dupe_10grams: float = _ratio("Characters in repeated word 10-grams. Gopher keeps up to 0.1.", GOPHER)
    paragraph_duplicates: float = _ratio("Paragraphs that repeat an earlier one, per paragraph. Gopher keeps up to 0.3.", GOPHER)
    max_char_run: int = _count("Length of the longest run of one character, blanks aside.")
    lines_ending_with_terminal_mark_ratio: float = _ratio("Lines that end as a sentence does, per line. FineWeb keeps from 0.12.", FINEWEB)
    short_line_ratio_chars_30: float = _ratio("Lines of up to 30 characters, per line. FineWeb keeps up to 0.67.", FINEWEB)
    line_char_duplicates: float = _ratio("Characters of lines that repeat an earlier one. FineWeb keeps up to 0.01.", FINEWEB)
    list_ratio: float = _number("Line feeds per word. FineWeb keeps up to 0.3.", FINEWEB)
    frac_lines_end_with_ellipsis: float = _ratio("Lines that end in an ellipsis, per line. Gopher keeps up to 0.3.", GOPHER)
    quoted_reply_ratio: float = _ratio("Lines that begin with '>', per line.")
    curly_bracket: float = _ratio("Curly brackets per character. C4 keeps texts without.", C4)
    lorem_ipsum: float = _ratio("Occurrences of 'lorem ipsum' per character. C4 keeps texts without.", C4)
    javascript_count: int = _count("Occurrences of 'javascript'. C4 drops lines with it.", C4)
    frac_all_caps_words: float = _ratio("Words all in capitals, per word.", "RedPajama-V2")
    frac_no_alph_words: float = _ratio("Words without a letter, per word. Gopher keeps up to 0.2.", GOPHER)
    long_word_ratio_7: float = _ratio("Words of 7 characters or more, per word.", "datatrove WordStats")
    max_word_length: int = _count("Characters of the longest word. C4 keeps up to 1,000.", C4)
    unigram_entropy: float = _number("Entropy of the words, in nats.", "RedPajama-V2")
    byte_entropy: float = pa.Field(ge=0, le=8, nullable=True, description="Entropy of the UTF-8 bytes, in bits.", metadata={"origin": None})
    emoji_count: int = _count("Pictographs (Unicode's Extended_Pictographic).")
    emoji_ratio: float = _ratio("Pictographs per character.")
    symbol_ratio: float = _ratio("Symbols (Unicode's category S: currency, mathematics, pictographs) per character.")
    code_block_ratio: float = _ratio("Characters inside ``` fences, per character.")
    is_html: int = _flag("Whether an HTML tag stands in it.")

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.record_text"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012

    @pa.dataframe_check(name="language:null_beside_values")
    def _all_or_none(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        always = ("language", "script", "n_tokens_est", "byte_entropy", "max_char_run", "is_html")
        return data.lazyframe.select(pl.sum_horizontal(pl.col(name).is_null() for name in always).is_in([0, len(always)]))


class RecordVector(Contract):
    """A record's text as a vector, to find records of like words. Null once the record is a tombstone."""

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    hash_vec_256: Annotated[pl.List, pl.Float32()] = _vector(
        "Counts of the text's words, lower-cased, hashed to 256 signed places, as a unit vector; all zeros if there is no word.",
        256,
        "Weinberger et al. 2009, arXiv:0902.2206",
    )

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.record_vector"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012

    @pa.dataframe_check(name="hash_vec_256:not_a_unit_vector_of_256")
    def _is_unit_vector(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_is_unit_vector("hash_vec_256", 256))


class RecordEmbedding(Contract):
    """A record's text as a vector, to find records of like meaning; there is one where MILLRACE_EMBEDDER names a model."""

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    embedding: Annotated[pl.List, pl.Float32()] = _vector("What the model makes of the text, as a unit vector.", 0, "the user's model")

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.record_embedding"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012

    @pa.dataframe_check(name="embedding:not_a_unit_vector")
    def _is_unit_vector(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_is_unit_vector("embedding"))


def _is_unit_vector(column: str, length: int = 0) -> pl.Expr:
    """Whether a vector has its length (0: any) and is 1 long, or all zeros; a null passes."""
    vector = pl.col(column)
    square = (vector * vector).list.sum()
    is_long = (square == 0) | ((square - 1).abs() < 1e-4)  # noqa: PLR2004 - single precision
    return vector.is_null() | ((vector.list.len() == (length or vector.list.len())) & is_long)


def _of(what: str, window: str) -> str:
    span = "so far" if window == "lifetime" else f"of the last {window.removesuffix('d')} days"
    return f"{what} {span}, as known at the instant."


class RecordDuplicates(Contract):
    """Which earlier-known record a record repeats, by the same text or nearly the same. All null once it is a tombstone."""

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the version stands: written and known.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    dup_of: str = pa.Field(
        nullable=True,
        description="The record known first of all that had the same text or one nearly the same; null if that is the record itself.",
        metadata={"origin": LEE},
    )
    dup_similarity: float = _ratio(
        "How like that record's text it is: 1 if the same (NFKC, lower case, runs of white space as one blank), else the estimated "
        "Jaccard similarity of runs of five letters and digits, 0.7 at least.",
        f"{LEE}; MinHash: Broder 1997",
    )
    dup_cluster_size: int = _count("Records so far in its cluster of likenesses, this one counted.")
    is_duplicate: int = pa.Field(ge=0, le=1, nullable=True, description="1 if it repeats an earlier-known record, else 0.")

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.record_duplicates"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012


class _Activity(Contract):
    """Columns that the activity of an author and of a subject have in common; windows as `_WINDOW` suffix."""

    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the values hold, until the next row.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    first_event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        nullable=True, description="When the earliest record known so far was written, to the second; null if none has counted yet."
    )
    n_records_1d: int = _total(_of("Records", "1d"))
    n_records_7d: int = _total(_of("Records", "7d"))
    n_records_28d: int = _total(_of("Records", "28d"))
    n_records_lifetime: int = _total(_of("Records", "lifetime"))
    n_words_1d: int = _total(_of("Words in records", "1d"))
    n_words_7d: int = _total(_of("Words in records", "7d"))
    n_words_28d: int = _total(_of("Words in records", "28d"))
    n_words_lifetime: int = _total(_of("Words in records", "lifetime"))
    mean_characters_1d: float = _number(_of("Characters per record", "1d"))
    mean_characters_7d: float = _number(_of("Characters per record", "7d"))
    mean_characters_28d: float = _number(_of("Characters per record", "28d"))
    mean_characters_lifetime: float = _number(_of("Characters per record", "lifetime"))
    positive_ratio_1d: float = _ratio(_of("Share of positive labels among records", "1d"))
    positive_ratio_7d: float = _ratio(_of("Share of positive labels among records", "7d"))
    positive_ratio_28d: float = _ratio(_of("Share of positive labels among records", "28d"))
    positive_ratio_lifetime: float = _ratio(_of("Share of positive labels among records", "lifetime"))


class AuthorActivity(_Activity):
    """What an author has written lately and so far, exact at any instant. Means and shares are null over no record."""

    author_id: str = pa.Field(description="The author.")

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.author_activity"
        metadata = {"key": ["author_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012


class SubjectActivity(_Activity):
    """What was written about a subject lately and so far, exact at any instant. Means and shares are null over no record."""

    subject_id: str = pa.Field(description="The subject: product, channel, thread or queue.")

    class Config(Contract.Config):
        """Relation, key, and the version of its family of features."""

        name = "features.subject_activity"
        metadata = {"key": ["subject_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012
