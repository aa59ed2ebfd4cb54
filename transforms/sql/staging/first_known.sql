-- first_known: the instant at which each record was first known, its author and subject then, and
-- its label as known now.
-- grain: record_id
-- reads: staging.records
with first_versions as (
    select * from staging.records
    where not is_tombstone
    qualify row_number() over (partition by record_id order by known_timestamp) = 1
),

newest_labels as (
    select
        record_id,
        max_by(is_positive, known_timestamp) as is_positive
    from staging.records
    where not is_tombstone
    group by record_id
)

select
    -- ids
    first_versions.record_id,
    first_versions.author_id,
    first_versions.subject_id,
    -- flags
    newest_labels.is_positive,
    -- timestamps
    greatest(first_versions.event_timestamp, first_versions.known_timestamp) as event_timestamp
from first_versions
inner join newest_labels on first_versions.record_id = newest_labels.record_id
order by event_timestamp, first_versions.record_id
