-- collisions: the accepted rows of every load whose id another record seems to share.
-- Of the rows with that id, in the order in which they were known, the one before or after is by
-- another author, has another text, and was written at another time or known at the same time.
-- An update keeps the author or the text, or keeps the written time and is known later.
-- Staged rows of the same source are compared too, but not by text, which is not read here.
-- Tombstones are left out.
-- grain: load_id
-- reads: accepted, earlier_rows, repeated_records
with candidates as (
    select
        accepted_id,
        load_id,
        source_uri,
        row_number,
        record_id,
        author_hash,
        text_hash,
        content_digest,
        event_timestamp,
        known_timestamp
    from accepted
    where
        author_hash is not null
        and record_id in (select repeated_records.record_id from repeated_records)

    union all

    select
        null as accepted_id,
        load_id,
        source_uri,
        row_number,
        record_id,
        author_hash,
        null as text_hash,
        content_digest,
        event_timestamp,
        known_timestamp
    from earlier_rows
    where is_staged and author_hash is not null and source = getvariable('source')
),

several as (
    select record_id
    from candidates
    group by record_id
    having min(author_hash) <> max(author_hash)
),

compared as (
    select
        *,
        lag(author_hash) over known_order <> author_hash
        and (
            lag(event_timestamp) over known_order <> event_timestamp
            or lag(known_timestamp) over known_order = known_timestamp
        )
        and coalesce(lag(text_hash) over known_order <> text_hash, true) as is_other_before,
        lead(author_hash) over known_order <> author_hash
        and (
            lead(event_timestamp) over known_order <> event_timestamp
            or lead(known_timestamp) over known_order = known_timestamp
        )
        and coalesce(lead(text_hash) over known_order <> text_hash, true) as is_other_after
    from candidates
    where record_id in (select several.record_id from several)
    window known_order as (
        partition by record_id
        order by known_timestamp, event_timestamp, author_hash, content_digest
    )
)

select
    load_id,
    count(*) as n_broken,
    count(distinct record_id) as n_records,
    min(source_uri) as source_uri,
    arg_min(row_number, (source_uri, row_number)) as row_number
from compared
where accepted_id is not null and (is_other_before or is_other_after)
group by load_id
