-- counted_records: the versions that count, or have counted, for an author or a subject at an instant, and in which windows.
-- grain: record_id, known_timestamp
-- reads: counting_spans
select
    *,
    getvariable('instant') < until_1d as is_in_1d,
    getvariable('instant') < until_7d as is_in_7d,
    getvariable('instant') < until_28d as is_in_28d,
    coalesce(getvariable('instant') < until_lifetime, true) as is_in_lifetime
from counting_spans
where
    counts_from <= getvariable('instant')
    and coalesce(counts_from < until_lifetime, true)
