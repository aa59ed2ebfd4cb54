-- whole_versions: all versions of every record that ever counted for an author or a subject whose history is computed again.
-- grain: record_id, known_timestamp
-- reads: lost_entities, staging.records
with relevant as (
    select record_id
    from staging.records
    where
        author_id in (select lost_entities.author_id from lost_entities)
        or subject_id in (select lost_entities.subject_id from lost_entities)
)

select
    1 as sign,
    -- ids
    record_id,
    author_id,
    subject_id,
    content_digest,
    -- flags
    is_positive,
    is_tombstone,
    -- timestamps
    event_timestamp,
    known_timestamp
from staging.records
where record_id in (select relevant.record_id from relevant)
