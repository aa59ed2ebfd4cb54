-- version_in_effect: the version of a record in effect at an instant.
-- Of the versions written and known by then, it is the one known last.
-- grain: record_id
-- reads: staging.records
select *
from staging.records
where
    record_id = $record_id
    and greatest(event_timestamp, known_timestamp) <= $at
qualify row_number() over (partition by record_id order by known_timestamp desc) = 1
