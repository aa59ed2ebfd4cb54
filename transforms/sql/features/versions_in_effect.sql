-- versions_in_effect: the version of a record in effect from an instant on, if it is a new arrival.
-- An instant is when a version is both written and known. Where an older version was written later
-- than a newer one was known, the newer one is in effect there too. For a record with a deleted
-- version, every instant has a row, published ones included: null where no version is in effect.
-- grain: record_id, event_timestamp
-- reads: inserted, deleted, staging.records, published_instants
with touched as (
    select record_id from inserted
    union all
    select record_id from deleted
),

versions as (
    select
        record_id,
        known_timestamp,
        greatest(event_timestamp, known_timestamp) as effective_timestamp
    from staging.records
    where record_id in (select touched.record_id from touched)

    union all

    select
        record_id,
        null as known_timestamp,
        event_timestamp as effective_timestamp
    from published_instants
),

in_effect as (
    select
        record_id,
        effective_timestamp,
        max(known_timestamp) over (
            partition by record_id
            order by effective_timestamp asc, known_timestamp asc nulls first
            rows between unbounded preceding and current row
        ) as known_timestamp
    from versions
    qualify row_number() over (
        partition by record_id, effective_timestamp
        order by known_timestamp desc nulls last
    ) = 1
),

texts as (
    select
        record_id,
        known_timestamp,
        author_id,
        subject_id,
        text_redacted,
        label,
        is_positive,
        attributes,
        source,
        event_timestamp as written_timestamp,
        case when not is_tombstone then text end as text
    from inserted

    union all

    select
        records.record_id,
        records.known_timestamp,
        records.author_id,
        records.subject_id,
        records.text_redacted,
        records.label,
        records.is_positive,
        records.attributes,
        records.source,
        records.event_timestamp as written_timestamp,
        case when not records.is_tombstone then records.text end as text
    from staging.records
    anti join inserted
        on
            records.record_id = inserted.record_id
            and records.known_timestamp = inserted.known_timestamp
    where records.record_id in (select deleted.record_id from deleted)
)

select
    -- ids
    texts.record_id,
    texts.author_id,
    texts.subject_id,
    -- text
    texts.text,
    texts.text_redacted,
    texts.label,
    texts.attributes,
    texts.source,
    -- flags
    texts.is_positive,
    -- timestamps
    texts.written_timestamp,
    texts.known_timestamp,
    in_effect.effective_timestamp as event_timestamp
from texts
inner join in_effect
    on
        texts.record_id = in_effect.record_id
        and texts.known_timestamp = in_effect.known_timestamp

union all by name

select
    record_id,
    effective_timestamp as event_timestamp
from in_effect
where known_timestamp is null
