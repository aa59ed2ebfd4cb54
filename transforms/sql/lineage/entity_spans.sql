-- entity_spans: when each version from a file begins to count for the entities that it names,
-- and when it is superseded (null: not yet).
-- grain: none
-- reads: named_versions
with known as (
    select
        *,
        greatest(event_timestamp, known_timestamp) + interval 1 microsecond as counts_from,
        lead(known_timestamp) over (partition by record_id order by known_timestamp)
        + interval 1 microsecond as superseded_timestamp
    from named_versions
)

select
    entity_ids,
    epoch_us(event_timestamp) as event_us,
    counts_from,
    superseded_timestamp
from known
where
    source_uri = getvariable('traced')
    and not is_tombstone
