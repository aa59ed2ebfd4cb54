-- relevant_versions: the versions of changed records as they are (sign 1) and as they were (-1).
-- The latter are those that the view was last computed from: without the versions inserted since,
-- with those deleted since.
-- grain: sign, record_id, known_timestamp
-- reads: inserted, deleted, staging.records
with touched as (
    select record_id from inserted
    union all
    select record_id from deleted
),

now_there as (
    select
        record_id,
        author_id,
        subject_id,
        text,
        text_redacted,
        label,
        attributes,
        source,
        content_digest,
        is_positive,
        is_tombstone,
        event_timestamp,
        known_timestamp
    from staging.records
    where record_id in (select touched.record_id from touched)
),

then_there as (
    select now_there.*
    from now_there
    anti join inserted
        on
            now_there.record_id = inserted.record_id
            and now_there.known_timestamp = inserted.known_timestamp

    union all by name

    select
        record_id,
        author_id,
        subject_id,
        text,
        text_redacted,
        label,
        attributes,
        source,
        content_digest,
        is_positive,
        is_tombstone,
        event_timestamp,
        known_timestamp
    from deleted
)

select
    1 as sign,
    *
from now_there
union all by name
select
    -1 as sign,
    *
from then_there
