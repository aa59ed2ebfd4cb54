-- naming_rows: rejected rows whose bytes contain a text, such as a record's id; whether they were rows of that record nobody can tell.
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
