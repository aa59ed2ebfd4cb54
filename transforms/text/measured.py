"""What a kernel returns: the key of its records beside what it measured of their texts."""

import polars as pl

KEY = ["record_id", "event_timestamp", "created_timestamp"]


def beside_key(records: pl.DataFrame, measured: pl.DataFrame) -> pl.LazyFrame:
    """Put measures beside the key of their records, null where there is no text.

    >>> records = pl.DataFrame({"record_id": ["a", "b"], "text": ["Hi", None]})
    >>> records = records.with_columns(event_timestamp=0, created_timestamp=0)
    >>> beside_key(records, pl.DataFrame({"n": [2, 0]})).collect()["n"].to_list()
    [2, None]
    """
    if records["text"].null_count():
        is_there = pl.lit(records["text"].is_not_null())
        measured = measured.select(pl.when(is_there).then(pl.all()))
    return records[KEY].hstack(measured).lazy()
