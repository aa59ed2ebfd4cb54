-- relevant_versions: all versions of every record that ever counted for an author or a subject that the arrivals touch.
-- grain: record_id, known_timestamp
-- reads: arrived, staging.records
with touched as (
    select
        author_id,
        subject_id
    from staging.records
    where record_id in (select arrived.record_id from arrived)
),

relevant as (
    select record_id
    from staging.records
    where
        author_id in (select touched.author_id from touched)
        or subject_id in (select touched.subject_id from touched)
)

select
    -- ids
    record_id,
    author_id,
    subject_id,
    -- flags
    is_positive,
    is_tombstone,
    -- timestamps
    event_timestamp,
    known_timestamp
from staging.records
where record_id in (select relevant.record_id from relevant)
