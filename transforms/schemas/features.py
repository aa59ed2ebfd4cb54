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
PRESIDIO = "presidio entity"
C4 = "Raffel et al. 2020, arXiv:1910.10683"


def _count(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})


def _ratio(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, le=1, nullable=True, description=description, metadata={"origin": origin})


def _number(description: str, origin: str | None = None) -> Any:
    return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})


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


def _is_unit_vector(column: str, length: int) -> pl.Expr:
    """Whether a vector has its length and is 1 long, or all zeros; a null passes."""
    vector = pl.col(column)
    square = (vector * vector).list.sum()
    is_long = (square == 0) | ((square - 1).abs() < 1e-4)  # noqa: PLR2004 - single precision
    return vector.is_null() | ((vector.list.len() == length) & is_long)


def _of(what: str, window: str) -> str:
    span = "so far" if window == "lifetime" else f"of the last {window.removesuffix('d')} days"
    return f"{what} {span}, as known at the instant."


class _Activity(Contract):
    """Columns that the activity of an author and of a subject have in common; windows as `_WINDOW` suffix."""

    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("From when on the values hold, until the next row.")
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = _instant("When the row was computed.")
    first_event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        nullable=True, description="When the earliest record known so far was written, to the second; null if none has counted yet."
    )
    n_records_1d: int = _count(_of("Records", "1d"))
    n_records_7d: int = _count(_of("Records", "7d"))
    n_records_28d: int = _count(_of("Records", "28d"))
    n_records_lifetime: int = _count(_of("Records", "lifetime"))
    n_words_1d: int = _count(_of("Words in records", "1d"))
    n_words_7d: int = _count(_of("Words in records", "7d"))
    n_words_28d: int = _count(_of("Words in records", "28d"))
    n_words_lifetime: int = _count(_of("Words in records", "lifetime"))
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
