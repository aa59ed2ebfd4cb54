-- documents: every incoming row as JSON text, or the reason why it cannot be.
-- grain: load_id, source_uri, row_number
-- reads: incoming
with decoded as (
    select
        load_id,
        source,
        source_uri,
        row_number,
        loaded_timestamp,
        octet_length(payload) > $max_record_bytes as is_too_long,
        case when not is_too_long then try(decode(payload)) end as line
    from incoming
),

trimmed as (
    select
        *,
        -- a byte order mark may stand before a file's first row
        case when row_number = 1 then ltrim(line, chr(65279)) else line end as document
    from decoded
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
        when is_too_long then 'too_long'
        when document is null then 'not_utf8'
        when not json_valid(document) then if(regexp_full_match(document, '\s*'), 'blank_line', 'not_json')
        when json_type(document) <> 'OBJECT' then 'not_an_object'
    end as rejection,
    -- timestamps
    loaded_timestamp
from trimmed
