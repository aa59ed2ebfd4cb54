-- decoded: every incoming row as text, or the reason why it is not text.
-- grain: load_id, source_uri, row_number
-- reads: corrected_rows
with lines as (
    select
        load_id,
        source,
        source_uri,
        row_number,
        loaded_timestamp,
        octet_length(payload) > $max_record_bytes as is_too_long,
        case when not is_too_long then try(decode(payload)) end as line
    from corrected_rows
)

select
    -- ids
    load_id,
    source,
    source_uri,
    row_number,
    -- text: a byte order mark may precede a file's first row
    case when row_number = 1 then ltrim(line, chr(65279)) else line end as document,
    case
        when is_too_long then 'too_long'
        when line is null then 'not_utf8'
    end as rejection,
    -- timestamps
    loaded_timestamp
from lines
