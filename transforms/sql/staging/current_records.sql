-- current_records: the newest known version of every record, at an instant.
-- grain: record_id
-- reads: staging.records
with versions as (
    select * from staging.records
    where known_timestamp < $as_of
),

newest as (
    select * from versions
    qualify row_number() over (partition by record_id order by known_timestamp desc) = 1
)

select * exclude (is_tombstone)
from newest
where not is_tombstone
