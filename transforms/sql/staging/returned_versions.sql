-- returned_versions: the duplicate rows that become versions, whole. Place and times are their own;
-- the content is that of an equal row, which is staged or arrives with the row that changes them.
-- grain: record_id, known_timestamp
-- reads: moved_rows, staging.records, buffered
with returned as (
    select * from moved_rows
    where not is_staged
),

alike as (
    select * from staging.records
    where record_id in (select returned.record_id from returned)

    union all

    select * from buffered
    where record_id in (select returned.record_id from returned)
),

contents as (
    select * from alike
    qualify row_number() over (
        partition by record_id, content_digest
        order by load_id, source_uri, row_number
    ) = 1
)

select
    -- ids
    contents.record_id,
    contents.author_id,
    contents.subject_id,
    -- timestamps
    contents.event_timestamp,
    returned.known_timestamp,
    -- content
    contents.text,
    contents.text_redacted,
    contents.label,
    contents.is_positive,
    contents.is_tombstone,
    contents.attributes,
    contents.content_digest,
    -- origin
    returned.source,
    returned.load_id,
    returned.source_uri,
    returned.row_number,
    returned.loaded_timestamp
from returned
inner join contents
    on
        returned.record_id = contents.record_id
        and returned.content_digest = contents.content_digest
