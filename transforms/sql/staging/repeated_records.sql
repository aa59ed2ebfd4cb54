-- repeated_records: the accepted records that have several rows, earlier ones included. Most have
-- one, which is its version and is nobody else's, so only these need to be sorted.
-- grain: record_id
-- reads: accepted, earlier_rows
with candidates as (
    select record_id from accepted

    union all

    select record_id from earlier_rows
)

select record_id
from candidates
group by record_id
having count(*) > 1
