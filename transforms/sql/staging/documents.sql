-- documents: every row as JSON text, or the reason why it cannot be.
-- grain: load_id, source_uri, row_number
-- reads: decoded
select
    -- ids
    load_id,
    source,
    source_uri,
    row_number,
    -- text
    document,
    case
        when rejection is not null then rejection
        when not json_valid(document) then if(regexp_full_match(document, '\s*'), 'blank_line', 'not_json')
        when json_type(document) <> 'OBJECT' then 'not_an_object'
    end as rejection,
    -- timestamps
    loaded_timestamp
from decoded
