-- compared_rows: rows of a database that raw has not as they are, and as they were last those that
-- the database has no more. `found` has all rows of the database, or of each its key if
-- `is_whole` is false: what is new or changed is then read by a cursor.
-- grain: key
-- reads: raw.records, found
with loaded as (
    select
        load_id,
        row_number,
        decode(payload) as document
    from raw.records
    where
        source = $source
        and not starts_with(source_uri, 'post:')
        and not starts_with(source_uri, 'file:')
),

latest as (
    select
        json_extract(document, $paths::varchar[])::varchar as key,
        arg_max(document, (load_id, row_number)) as document
    from loaded
    group by key
),

here as (
    select
        json_extract(decode(payload), $paths::varchar[])::varchar as key,
        decode(payload) as document
    from found
),

changed as (
    select here.*
    from here
    left join latest on here.key = latest.key
    where here.document is distinct from latest.document
),

missed as (
    select latest.*
    from latest
    left join here on latest.key = here.key
    where
        here.key is null
        and not regexp_matches(latest.document, ',"_deleted_at":"[^"]*"\}$')
),

dated as (
    select
        key,
        case
            when ends_with(document, ',"_deleted_at":null}') then left(document, -5)
            else left(document, -1) || ',"_deleted_at":'
        end || '"' || $deleted_at || '"}' as document
    from missed
),

final as (
    select * from changed
    where $is_whole
    union all
    select * from dated
)

select encode(document) as payload
from final
order by key
