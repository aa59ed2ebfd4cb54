-- counting_versions: when each version of a record begins to count and when it is superseded.
-- A version counts from the microsecond after it is written and known until the microsecond after
-- a newer one is known (null: none is yet). A tombstone does not count.
-- grain: record_id, known_timestamp
-- reads: staging.records
with known as (
    select
        record_id,
        known_timestamp,
        is_tombstone,
        greatest(event_timestamp, known_timestamp) + interval 1 microsecond as counts_from,
        lead(known_timestamp) over (partition by record_id order by known_timestamp)
        + interval 1 microsecond as superseded_timestamp
    from staging.records
    where record_id = $record_id
)

select * exclude (is_tombstone)
from known
where not is_tombstone
