-- naming_rows: rejected rows whose bytes contain a text, such as a record's id.
-- Whether they are rows of that record is unknown.
-- grain: load_id, source_uri, row_number
-- reads: quarantine.records
select
    load_id,
    source_uri,
    row_number,
    "column",
    rule
from quarantine.records
where contains(coalesce(try(decode(payload)), payload::varchar), $name)
order by load_id, source_uri, row_number
