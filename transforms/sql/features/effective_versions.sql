-- effective_versions: every version of a record that takes effect, and from when until when.
-- It is in effect from the microsecond after it is both written and known until the microsecond
-- after a newer one is known. A tombstone ends the version before it and is no version itself.
-- grain: record_id, known_timestamp
-- reads: staging.records
with versions as (
    select
        *,
        make_timestamptz(
            epoch_us(greatest(event_timestamp, known_timestamp)) + 1
        ) as effective_from,
        make_timestamptz(
            lead(epoch_us(known_timestamp)) over (
                partition by record_id
                order by known_timestamp
            ) + 1
        ) as effective_until
    from staging.records
)

select
    -- ids
    record_id,
    author_id,
    subject_id,
    -- text
    text,
    text_redacted,
    label,
    attributes,
    source,
    -- flags
    is_positive,
    -- timestamps
    event_timestamp,
    known_timestamp,
    effective_from,
    effective_until
from versions
where
    not is_tombstone
    and coalesce(effective_until > effective_from, true)
