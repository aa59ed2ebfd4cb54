-- effective_instants: the instants at which a version of a record takes effect.
-- A version does so only if no newer one was known by then.
-- grain: entity_id, instant_us
-- reads: staging.records
with versions as (
    select
        record_id,
        epoch_us(known_timestamp) as known_us,
        epoch_us(greatest(event_timestamp, known_timestamp)) as instant_us
    from staging.records
)

select
    record_id as entity_id,
    instant_us
from versions
qualify known_us = max(known_us) over (
    partition by record_id
    order by instant_us, known_us
    rows between unbounded preceding and current row
)
