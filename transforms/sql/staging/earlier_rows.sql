-- earlier_rows: the earlier rows of the accepted records: staged rows and duplicate rows.
-- Each row counts once, although one that became a version again is still among the duplicate rows,
-- and rows that a killed run committed are accepted again.
-- grain: load_id, source_uri, row_number
-- reads: accepted, staging.records, staging.duplicate_rows
with staged as (
    select
        record_id,
        content_digest,
        source,
        load_id,
        source_uri,
        row_number,
        event_timestamp,
        known_timestamp,
        loaded_timestamp,
        case when not is_tombstone then hash(author_id) end as author_hash,
        true as is_staged
    from staging.records
    where record_id in (select accepted.record_id from accepted)
),

duplicates as (
    select
        record_id,
        content_digest,
        source,
        load_id,
        source_uri,
        row_number,
        event_timestamp,
        known_timestamp,
        loaded_timestamp,
        hash(author_id) as author_hash,
        false as is_staged
    from staging.duplicate_rows
    where record_id in (select accepted.record_id from accepted)
),

earlier as (
    select * from staged

    union all

    select duplicates.* from duplicates
    anti join staged
        on
            duplicates.load_id = staged.load_id
            and duplicates.source_uri = staged.source_uri
            and duplicates.row_number = staged.row_number
)

select
    row_number() over () as earlier_id,
    earlier.*
from earlier
anti join accepted
    on
        earlier.load_id = accepted.load_id
        and earlier.source_uri = accepted.source_uri
        and earlier.row_number = accepted.row_number
