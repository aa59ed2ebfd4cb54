-- known_texts: every text that a record had by an instant, in the order in which they became known.
-- grain: record_id, known_timestamp
-- reads: staging.records
select
    -- ids
    record_id,
    -- text
    text,
    -- timestamps
    known_timestamp
from staging.records
where
    record_id = $record_id
    and greatest(event_timestamp, known_timestamp) <= $at
    and not is_tombstone
order by known_timestamp
