-- documents: every row as JSON text with its fields' names and types, or the reason why it is not.
-- Parsing costs most here, so types are those of the expected fields, in their order. Only a row
-- with another field gets its structure; nested deeper than DuckDB reads, its field names alone.
-- grain: load_id, source_uri, row_number
-- reads: decoded
with named as (
    select
        *,
        case when rejection is null and json_valid(document) then json_keys(document) end as names
    from decoded
),

typed as (
    select
        *,
        case when len(names) > 0 then json_type(document, getvariable('field_paths')) end as types
    from named
)

select
    -- ids
    load_id,
    source,
    source_uri,
    row_number,
    -- text
    document,
    case
        when len(names) = list_count(types) then types::varchar
        when len(names) > 0
            then coalesce(try(json_structure(document))::varchar, to_json([names])::varchar)
        when names is not null then '{}'
    end as structure,
    case
        when rejection is not null then rejection
        when names is null then if(regexp_full_match(document, '\s*'), 'blank_line', 'not_json')
        when len(names) = 0 and json_type(document) <> 'OBJECT' then 'not_an_object'
        -- where all names are expected, each was found once
        when len(names) > list_count(types) and len(names) > list_unique(names) then 'duplicate_key'
    end as rejection,
    -- timestamps
    loaded_timestamp
from typed
