-- record_spans: from when to when each version of a record counts, in microseconds since 1970.
-- A version counts from the microsecond after it is both written and known, until a newer one is
-- known. A version of sign -1 counted when the view was last computed: what it added is subtracted.
-- grain: sign, record_id, known_timestamp
-- reads: relevant_versions
with versions as (
    select
        *,
        greatest(event_timestamp, known_timestamp) as effective_timestamp,
        lead(epoch_us(known_timestamp)) over (
            partition by sign, record_id
            order by known_timestamp
        ) + 1 as superseded_us
    from relevant_versions
)

select
    versions.* exclude (superseded_us),
    epoch_us(event_timestamp) as event_us,
    epoch_us(known_timestamp) as known_us,
    epoch_us(effective_timestamp) + 1 as starts_us,
    coalesce(superseded_us, 9223372036854775807) as superseded_us
from versions
where not is_tombstone
