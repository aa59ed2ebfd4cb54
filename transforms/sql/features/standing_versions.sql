-- standing_versions: the version of a record that stands from an instant on, for the versions that arrived.
-- An instant is when a version is both written and known. Where an older version was written later than a newer one was
-- known, the newer one stands there too.
-- grain: record_id, event_timestamp
-- reads: arrived, staging.records
with versions as (
    select
        record_id,
        known_timestamp,
        greatest(event_timestamp, known_timestamp) as effective_timestamp
    from staging.records
    where record_id in (select arrived.record_id from arrived)
),

standing as (
    select
        record_id,
        effective_timestamp,
        max(known_timestamp) over (
            partition by record_id
            order by effective_timestamp, known_timestamp
            rows between unbounded preceding and current row
        ) as known_timestamp
    from versions
    qualify row_number() over (partition by record_id, effective_timestamp order by known_timestamp desc) = 1
)

select
    -- ids
    arrived.record_id,
    -- text
    case when not arrived.is_tombstone then arrived.text end as text,
    -- timestamps
    standing.effective_timestamp as event_timestamp
from arrived
inner join standing
    on
        arrived.record_id = standing.record_id
        and arrived.known_timestamp = standing.known_timestamp
