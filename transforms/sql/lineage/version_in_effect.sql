-- version_in_effect: the version of a record that stands at an instant: of those written and known by then the newest known.
-- grain: record_id
-- reads: staging.records
select *
from staging.records
where
    record_id = $record_id
    and greatest(event_timestamp, known_timestamp) <= $at
qualify row_number() over (partition by record_id order by known_timestamp desc) = 1
