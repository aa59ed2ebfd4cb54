-- known_versions: the newest version of each record known before an instant, unless it is
-- a tombstone or takes effect only later.
-- grain: record_id
-- reads: traced_versions
with known as (
    select
        *,
        greatest(event_timestamp, known_timestamp) as effective_timestamp,
        epoch_us(event_timestamp) as event_us
    from traced_versions
    where known_timestamp < getvariable('instant')
    qualify row_number() over (partition by record_id order by known_timestamp desc) = 1
)

select *
from known
where
    not is_tombstone
    and effective_timestamp < getvariable('instant')
