"""What a record's text is like."""

import polars as pl

from transforms.features import Field, RecordView
from transforms.features.declare import Checked, check
from transforms.text.signals import score_text

GOPHER = "Rae et al. 2021, arXiv:2112.11446, table A1"
C4 = "Raffel et al. 2020, arXiv:1910.10683"
FINEWEB = "Penedo et al. 2024, arXiv:2406.17557"
VADER = "Hutto & Gilbert 2014, VADER"


class RecordText(RecordView):
    """What a record's text is like: language, tone, repetition, lines, characters.

    Null once it is a tombstone.

    What is measured on English words alone is null in any other language. Thresholds are those of
    the papers; none is applied.
    """

    language: str = Field.word(
        "ISO 639 code of the language; 'und' where there is too little to go by.",
        "pycld2, then py3langid",
    )
    language_group: str = Field.word(
        "The macrolanguage of languages that are easily confused (ms for id; sh for bs, hr, sr), "
        "else the language."
    )
    language_score: float = Field.ratio(
        "Share of the text in the language, or its probability. FineWeb keeps from 0.65.", FINEWEB
    )
    is_language_reliable: int = Field.flag("Whether the score is 0.65 or more.")
    second_language: str = Field.word("What else the text is in, or may be in; null if nothing.")
    script: str = Field.word(
        "ISO 15924 code of the script of most letters; Zyyy where there is no letter."
    )
    script_ratio: float = Field.ratio("Share of the letters that are of that script.")
    n_scripts: int = Field.count("Scripts that letters are of.")
    n_tokens_est: int = Field.count("Tokens of a byte-pair encoding, estimated as 0.28 a byte.")
    automated_readability_index: float = Field.number(
        "School grade by characters, words and sentences; English.", "Smith & Senter 1967"
    )
    coleman_liau_index: float = Field.number(
        "School grade by letters, words and sentences; English.", "Coleman & Liau 1975"
    )
    sentiment_compound: float = Field.number(
        "Tone from -1 to 1, by a lexicon: a proxy; English.", VADER, ge=-1, le=1
    )
    frac_negative_words: float = Field.ratio(
        "Words with a negative valence, per word: a proxy; English.", VADER
    )
    stop_word_fraction: float = Field.ratio(
        "'the be to of and that have with' per word; English. Gopher wants two of them.", GOPHER
    )
    frac_chars_top_2gram: float = Field.ratio(
        "Characters in the most frequent repeated word 2-gram. Gopher keeps up to 0.2.", GOPHER
    )
    frac_chars_top_3gram: float = Field.ratio(
        "Characters in the most frequent repeated word 3-gram. Gopher keeps up to 0.18.", GOPHER
    )
    frac_chars_top_4gram: float = Field.ratio(
        "Characters in the most frequent repeated word 4-gram. Gopher keeps up to 0.16.", GOPHER
    )
    frac_chars_dupe_5grams: float = Field.ratio(
        "Characters in repeated word 5-grams. Gopher keeps up to 0.15.", GOPHER
    )
    frac_chars_dupe_6grams: float = Field.ratio(
        "Characters in repeated word 6-grams. Gopher keeps up to 0.14.", GOPHER
    )
    frac_chars_dupe_7grams: float = Field.ratio(
        "Characters in repeated word 7-grams. Gopher keeps up to 0.13.", GOPHER
    )
    frac_chars_dupe_8grams: float = Field.ratio(
        "Characters in repeated word 8-grams. Gopher keeps up to 0.12.", GOPHER
    )
    frac_chars_dupe_9grams: float = Field.ratio(
        "Characters in repeated word 9-grams. Gopher keeps up to 0.11.", GOPHER
    )
    frac_chars_dupe_10grams: float = Field.ratio(
        "Characters in repeated word 10-grams. Gopher keeps up to 0.1.", GOPHER
    )
    paragraph_duplicates: float = Field.ratio(
        "Paragraphs that repeat an earlier one, per paragraph. Gopher keeps up to 0.3.", GOPHER
    )
    max_char_run: int = Field.count("Length of the longest run of one character, blanks aside.")
    lines_ending_with_terminal_mark_ratio: float = Field.ratio(
        "Lines that end as a sentence does, per line. FineWeb keeps from 0.12.", FINEWEB
    )
    short_line_ratio_chars_30: float = Field.ratio(
        "Lines of up to 30 characters, per line. FineWeb keeps up to 0.67.", FINEWEB
    )
    line_char_duplicates: float = Field.ratio(
        "Characters of lines that repeat an earlier one. FineWeb keeps up to 0.01.", FINEWEB
    )
    list_ratio: float = Field.measure("Line feeds per word. FineWeb keeps up to 0.3.", FINEWEB)
    frac_lines_end_with_ellipsis: float = Field.ratio(
        "Lines that end in an ellipsis, per line. Gopher keeps up to 0.3.", GOPHER
    )
    quoted_reply_ratio: float = Field.ratio("Lines that begin with '>', per line.")
    curly_bracket: float = Field.ratio("Curly brackets per character. C4 keeps texts without.", C4)
    lorem_ipsum: float = Field.ratio(
        "Occurrences of 'lorem ipsum' per character. C4 keeps texts without.", C4
    )
    javascript_count: int = Field.count("Occurrences of 'javascript'. C4 drops lines with it.", C4)
    frac_all_caps_words: float = Field.ratio("Words all in capitals, per word.", "RedPajama-V2")
    frac_no_alph_words: float = Field.ratio(
        "Words without a letter, per word. Gopher keeps up to 0.2.", GOPHER
    )
    long_word_ratio_7: float = Field.ratio(
        "Words of 7 characters or more, per word.", "datatrove WordStats"
    )
    max_word_length: int = Field.count("Characters of the longest word. C4 keeps up to 1,000.", C4)
    unigram_entropy: float = Field.measure("Entropy of the words, in nats.", "RedPajama-V2")
    byte_entropy: float = Field.number("Entropy of the UTF-8 bytes, in bits.", ge=0, le=8)
    emoji_count: int = Field.count("Pictographs (Unicode's Extended_Pictographic).")
    emoji_ratio: float = Field.ratio("Pictographs per character.")
    symbol_ratio: float = Field.ratio(
        "Symbols (Unicode's category S: currency, mathematics, pictographs) per character."
    )
    code_block_ratio: float = Field.ratio("Characters inside ``` fences, per character.")
    is_html: int = Field.flag("Whether it contains an HTML tag.")

    @check(name="language:null_beside_values")
    def _all_or_none(cls, data: Checked) -> pl.LazyFrame:  # noqa: N805
        always = ("language", "script", "n_tokens_est", "byte_entropy", "max_char_run", "is_html")
        return data.lazyframe.select(
            pl.sum_horizontal(pl.col(name).is_null() for name in always).is_in([0, len(always)])
        )

    compute = staticmethod(score_text)
