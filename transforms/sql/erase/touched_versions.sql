-- touched_versions: every row of the records that lose one, to find the entities to recompute.
-- A duplicate row may have been a version before; only its own columns say which entities it names.
-- grain: none
-- reads: erased_rows, staging.records, staging.duplicate_rows
with named as (
    select
        record_id,
        author_id,
        subject_id,
        text,
        text_redacted,
        label,
        attributes,
        source,
        is_positive,
        event_timestamp,
        known_timestamp
    from staging.records

    union all by name

    select
        record_id,
        author_id,
        subject_id,
        source,
        event_timestamp,
        known_timestamp
    from staging.duplicate_rows
)

select
    *,
    greatest(event_timestamp, known_timestamp) as effective_timestamp
from named
where record_id in (select erased_rows.record_id from erased_rows)
