-- described_documents: the documents from the first change on, and each record's last one before.
-- The latter is marked `is_before`. A document with the same text as the record's previous one is
-- no statement: it repeats that one's values. A statement and its repetitions share a `run`.
-- grain: record_id, event_timestamp
-- reads: arriving_documents, indexed_documents
with staying as (
    select
        indexed_documents.record_id,
        indexed_documents.event_timestamp,
        indexed_documents.content_id
    from indexed_documents
    anti join arriving_documents
        on
            indexed_documents.record_id = arriving_documents.record_id
            and indexed_documents.event_timestamp = arriving_documents.event_timestamp
    where indexed_documents.event_timestamp >= getvariable('first_change')
),

arriving as (
    select
        record_id,
        event_timestamp,
        content_id
    from arriving_documents
    where event_timestamp >= getvariable('first_change')
),

later as (
    select * from staying
    union all
    select * from arriving
),

before as (
    select * from indexed_documents
    where
        event_timestamp < getvariable('first_change')
        and record_id in (select later.record_id from later)
    qualify row_number() over (partition by record_id order by event_timestamp desc) = 1
),

documents as (
    select
        *,
        true as is_before
    from before

    union all by name

    select
        *,
        false as is_before
    from later
),

compared as (
    select
        *,
        not is_before
        and content_id is not null
        and coalesce(
            content_id <> lag(content_id) over (partition by record_id order by event_timestamp),
            true
        ) as is_statement
    from documents
)

select
    *,
    sum((is_before or is_statement)::int) over (
        partition by record_id
        order by event_timestamp
    )::bigint as run
from compared
