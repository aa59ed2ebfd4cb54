-- quarantine_rows: whole rejected rows, in the order of their files; of one rule if it is given.
-- grain: load_id, source_uri, row_number
-- reads: quarantine.records
select *
from quarantine.records
where $rule::varchar is null or rule = $rule
order by source_uri, row_number, load_id
limit $n_rows
