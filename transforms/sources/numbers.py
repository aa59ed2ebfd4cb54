"""JSON numbers as they are written: 1.10 stays 1.10, and 1e3 stays 1e3.

NaN and the infinities, which are not JSON, become null. DuckDB reads a number as a DOUBLE and
writes its shortest text, which differs for a number that ends in a zero, has an exponent or has
more digits than a DOUBLE. Where a document has one, each of its numbers is put between quotes and
marks before DuckDB reads it, and the marks are removed from what DuckDB returns. All of it is SQL,
since a source has millions of documents.
"""

# a number, between what may come before and after a value, that DuckDB may write differently; one
# inside a text matches too, which only costs time
CHANGED = (
    r"[\[,:]\s*-?(?:\d+(?:\.\d+)?[eE][+-]?\d+|\d+\.\d+0|0\.0000\d+|[\d.]{17,}"
    r"|(?i:nan|inf(?:inity)?))\s*[,\]}]|[\[,:]\s*-0\s*[,\]}]"
)
NOT_FINITE = r"[\[,:]\s*-?(?i:nan|inf(?:inity)?)\s*[,\]}]"
TEXT = r'"(?:[^"\\]|\\.)*"'
# the types, in the structure of a document, that may contain such a number; the structure of a row
# with an unexpected field begins with one of the marks
MAY_CONTAIN = ("DOUBLE", "OBJECT", "ARRAY")
MAY_BEGIN = ("{", "[[")


def mark_sql(document: str, structure: str) -> str:
    """Compose SQL for the mark of a document with a number that DuckDB would write differently.

    The mark is the document's own digest, which it cannot contain; null where there is none.

    >>> import duckdb
    >>> marks = [mark_sql(f"'[{number}]'", "'DOUBLE'") for number in ("1.1", "1.10", "1e3")]
    >>> duckdb.sql(f"select {', '.join(f'({mark}) is null' for mark in marks)}").fetchall()
    [(True, False, False)]
    """
    may_contain = " or ".join(
        [
            *(f"contains({structure}, '{kind}')" for kind in MAY_CONTAIN),
            *(f"starts_with({structure}, '{mark}')" for mark in MAY_BEGIN),
        ]
    )
    is_marked = f"({may_contain}) and regexp_matches({document}, '{CHANGED}')"
    return f"case when {is_marked} then md5({document}) end"


def marked_sql(document: str, mark: str) -> str:
    """Compose SQL that makes each number of a document a text between marks.

    >>> import duckdb
    >>> duckdb.sql("select " + marked_sql("'[1.10]'", "'#'")).fetchall()
    [('["#1.10#"]',)]
    """
    # the empty match at the end keeps a search from beginning inside a text; its marks are cut off
    numbers = rf'((?:{TEXT}|[^"0-9-])*)(-?[0-9][0-9.eE+-]*|$)'
    text = rf"""'\1"' || {mark} || '\2' || {mark} || '"'"""
    marked = f"regexp_replace({finite_sql(document)}, '{numbers}', {text}, 'g')"
    return (
        f"case when {mark} is null then {document} else left({marked}, -2 * length({mark}) - 2) end"
    )


def unmarked_sql(text: str, mark: str) -> str:
    """Compose SQL that takes the marks out of a text: of JSON, or of one value.

    >>> import duckdb
    >>> duckdb.sql("select " + unmarked_sql(marked_sql("'[1.10]'", "'#'"), "'#'")).fetchall()
    [('[1.10]',)]
    """
    in_json = f"replace(replace({text}, '\"' || {mark}, ''), {mark} || '\"', '')"
    return f"case when {mark} is null then {text} else replace({in_json}, {mark}, '') end"


def finite_sql(document: str) -> str:
    """Compose SQL that makes NaN, Infinity and -Infinity null, in any case.

    >>> import duckdb
    >>> duckdb.sql("select " + finite_sql("'[NaN, -inf, 1]'")).fetchall()
    [('[null, null, 1]',)]
    """
    numbers = rf'((?:{TEXT}|[^"])*?)(-?(?i:nan|inf(?:inity)?)|$)'
    nulled = rf"left(regexp_replace({document}, '{numbers}', '\1null', 'g'), -4)"
    has_others = f"regexp_matches({document}, '{NOT_FINITE}')"
    return f"case when {has_others} then {nulled} else {document} end"
