"""Times as text: the forms that are read (see docs/sources.md), and why any other is refused.

All of it is SQL over a column of text, since a source has millions of times. Nearly all have the
form `QUICK`, which DuckDB reads as it is; any other is taken apart and rewritten in that form.
"""

# from UTC-12:00 to UTC+14:00, which is as far as clocks on earth go
OFFSET = r"\+(?:0\d|1[0-3])(?::?[0-5]\d)?|\+14(?::?00)?|-(?:0\d|1[01])(?::?[0-5]\d)?|-12(?::?00)?"
QUICK = rf"\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|{OFFSET})?)?"
DATE = r"\d{4}-\d{1,2}-\d{1,2}|\d{4}/\d{1,2}/\d{1,2}|\d{8}|\d{4}-?\d{3}|\d{4}-?[Ww]\d\d-?[1-7]"
CLOCK = r"\d{1,2}:\d{1,2}(?::\d{1,2}(?:[.,]\d+)?)?|\d\d(?:\d\d(?:\d\d(?:[.,]\d+)?)?)?"
# of an offset with a region in brackets, as Java writes it, the offset counts
ZONE = rf"(?i:Z|UTC|GMT)|{OFFSET}|(?:[Zz]|{OFFSET})\[[^\]]+\]|[A-Za-z_]+(?:/[\w+-]+)+"
FORM = rf"^({DATE})(?:(?:[Tt]|\s+)({CLOCK})\s*({ZONE})?)?$"
MICROSECONDS = {
    "seconds": "* 1000000",
    "milliseconds": "* 1000",
    "microseconds": "",
    "nanoseconds": "::hugeint // 1000",
}
# digits of the seconds, milliseconds, microseconds or nanoseconds since 1970, from 1973 to 2286
EPOCH_NUMBER = r"-?(\d{9,10}|\d{12,13}|\d{15,16}|\d{18,19})(\.\d*)?"
CLOCKED = rf"\s*(?:{DATE})(?:[Tt]|\s+)(?:{CLOCK})\s*"

DAY_SQL = """case
    when regexp_full_match(part.day, '\\d{8}')
        then part.day[1:4] || '-' || part.day[5:6] || '-' || part.day[7:8]
    when regexp_full_match(part.day, '\\d{4}-\\d{3}')
        or (regexp_full_match(part.day, '\\d{7}') and part.clock <> '')
        then list_filter(
            [try_strptime(replace(part.day, '-', ''), '%Y%j')::date::varchar],
            lambda day: day[1:4] = part.day[1:4]
        )[1]
    when part.day[5:6] in ('-W', '-w') or part.day[5] in ('W', 'w')
        then list_filter(
            [try_strptime(replace(upper(part.day), '-', ''), '%GW%V%u')],
            lambda day: strftime(day, '%GW%V%u') = replace(upper(part.day), '-', '')
        )[1]::date::varchar
    when part.day[5] in ('-', '/') then part.day
end"""
CLOCK_SQL = """case
    when part.clock = '' then ''
    when contains(part.clock, ':') then ' ' || replace(part.clock, ',', '.')
    else ' ' || part.clock[1:2]
        || ':' || rpad(part.clock[3:4], 2, '0')
        || ':' || rpad(part.clock[5:6], 2, '0')
        || replace(part.clock[7:], ',', '.')
end"""
ZONE_SQL = """case
    when contains(part.zone, '/') and not contains(part.zone, '[') then ' ' || part.zone
    when part.zone[1] in ('+', '-') then split_part(part.zone, '[', 1)
    when part.zone <> '' then 'Z'
    else ''
end"""


def time_sql(text: str) -> str:
    """Compose SQL that reads a text as an instant, a naive one as UTC.

    Null where it is not an instant of the years 1 to 9998.

    >>> import duckdb
    >>> time = time_sql("'2026-W05-6 10:30'")
    >>> duckdb.sql(f"select strftime(({time}) at time zone 'UTC', '%d.%m.%Y %H:%M')").fetchall()
    [('31.01.2026 10:30',)]
    """
    # a list of one and a lambda, since SQL has no names inside an expression
    parts = f"regexp_extract(trim({text}, ' \t\r\n'), '{FORM}', ['day', 'clock', 'zone'])"
    other = f"list_transform([{parts}], lambda part: {DAY_SQL} || {CLOCK_SQL} || {ZONE_SQL})[1]"
    quick = f"case when regexp_full_match({text}, '{QUICK}') then {text} else {other} end"
    return _bounded(f"try_cast({quick} as timestamptz)")


def epoch_sql(text: str, unit: str) -> str:
    """Compose SQL that reads a number of units since 1970 as an instant.

    Null where it is not an instant of the years 1 to 9998.

    >>> import duckdb
    >>> duckdb.sql("select epoch_ms(" + epoch_sql("'1e3'", "seconds") + ")").fetchall()
    [(1000000,)]
    """
    number = f"try_cast({text} as decimal(38, 9))"
    return _bounded(f"try(make_timestamptz(floor({number} {MICROSECONDS[unit]})::bigint))")


def _bounded(time: str) -> str:
    # Python's and Polars' times end there; the long SQL of a time is written, and bound, once
    first, end = "'0001-01-01'::timestamptz", "'9999-12-31'::timestamptz"
    return f"list_filter([{time}], lambda time: time >= {first} and time < {end})[1]"


def time_rule_sql(text: str) -> str:
    """Compose SQL that names the rule broken by a text that is not a time.

    >>> import duckdb
    >>> duckdb.sql("select " + time_rule_sql("'2026-01-31 10:30 EST'")).fetchall()
    [('ambiguous_time_zone',)]
    """
    return rf"""case
        when regexp_full_match(trim({text}), '{EPOCH_NUMBER}') then 'epoch_without_unit'
        when regexp_full_match({text}, '{CLOCKED}(?:{ZONE}|(?i:[ap]\.?m\.?))') then 'not_a_time'
        when regexp_full_match({text}, '{CLOCKED}[A-Za-z]{{2}}\w*(?:[+-][\d:]+)?')
            then 'ambiguous_time_zone'
        when regexp_full_match({text}, '{CLOCKED}[+-]\d[\d:]*(?:\[[^\]]+\])?')
            then 'impossible_offset'
        else 'not_a_time'
    end"""
