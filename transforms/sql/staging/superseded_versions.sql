-- superseded_versions: the rows that move from staging to the duplicate rows, without those that
-- are there already.
-- grain: load_id, source_uri, row_number
-- reads: staging.records, moved_rows, staging.duplicate_rows
with superseded as (
    select * from moved_rows
    where is_staged
)

select
    -- ids
    records.record_id,
    records.author_id,
    records.subject_id,
    -- timestamps
    records.event_timestamp,
    records.known_timestamp,
    -- origin
    records.content_digest,
    records.source,
    records.load_id,
    records.source_uri,
    records.row_number,
    records.loaded_timestamp
from staging.records
semi join superseded
    on
        records.load_id = superseded.load_id
        and records.source_uri = superseded.source_uri
        and records.row_number = superseded.row_number
anti join staging.duplicate_rows
    on
        records.load_id = duplicate_rows.load_id
        and records.source_uri = duplicate_rows.source_uri
        and records.row_number = duplicate_rows.row_number
