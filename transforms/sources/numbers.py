"""Numbers of JSON, as they are written: 1.10 stays 1.10, and 1e3 stays 1e3. NaN and the infinities, which JSON has not, are null.

DuckDB reads a number as a DOUBLE and writes the shortest text of that, which is another text for a number that ends in a zero, has an
exponent or more digits than a DOUBLE. Where a document has one of those, each of its numbers is put between quotes and marks
before DuckDB reads it, and the marks are taken out of what DuckDB gives. All of it is SQL, for a source has millions of documents.
"""

# between what stands before and after a value: a number that DuckDB may write otherwise. In a text it may stand too: that costs time alone
CHANGED = r"[\[,:]\s*-?(?:\d+(?:\.\d+)?[eE][+-]?\d+|\d+\.\d+0|0\.0000\d+|[\d.]{17,}|(?i:nan|inf(?:inity)?))\s*[,\]}]|[\[,:]\s*-0\s*[,\]}]"
NOT_FINITE = r"[\[,:]\s*-?(?i:nan|inf(?:inity)?)\s*[,\]}]"
TEXT = r'"(?:[^"\\]|\\.)*"'
# the types, in the structure of a document, among whose values such a number can be: a row with an unexpected field is told as an object
MAY_HOLD = r"DOUBLE|OBJECT|ARRAY|^\{|^\[\["


def mark_sql(document: str, structure: str) -> str:
    """Compose SQL for the mark of a document that has a number DuckDB would write otherwise; null where it has none.

    The mark is the document's own digest, which it cannot hold.
    """
    return f"case when regexp_matches({structure}, '{MAY_HOLD}') and regexp_matches({document}, '{CHANGED}') then md5({document}) end"


def marked_sql(document: str, mark: str) -> str:
    """Compose SQL that makes each number of a document a text between marks."""
    # at the end of the document a number may be empty, so that no search begins inside a text; its marks are cut off again
    numbers = rf'((?:{TEXT}|[^"0-9-])*)(-?[0-9][0-9.eE+-]*|$)'
    marked = rf"""regexp_replace({finite_sql(document)}, '{numbers}', '\1"' || {mark} || '\2' || {mark} || '"', 'g')"""
    return (
        f"case when {mark} is null then {document} else left({marked}, -2 * length({mark}) - 2) end"
    )


def unmarked_sql(text: str, mark: str) -> str:
    """Compose SQL that takes the marks out of a text: of JSON, or of one value."""
    in_json = f"replace(replace({text}, '\"' || {mark}, ''), {mark} || '\"', '')"
    return f"case when {mark} is null then {text} else replace({in_json}, {mark}, '') end"


def finite_sql(document: str) -> str:
    """Compose SQL that makes NaN, Infinity and -Infinity null, whatever the case they are in."""
    nulled = rf"""regexp_replace({document}, '((?:{TEXT}|[^"])*?)(-?(?i:nan|inf(?:inity)?)|$)', '\1null', 'g')"""
    return f"case when regexp_matches({document}, '{NOT_FINITE}') then left({nulled}, -4) else {document} end"
