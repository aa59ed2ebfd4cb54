-- own_labels: the value of a row's own record as it is known at the end of the horizon.
-- A record that was taken out by then has none.
-- grain: record_id, instant_us
-- reads: asked_rows, keyed_versions
with horizons as (
    select distinct
        record_id,
        instant_us,
        instant_us + $horizon_us as until_us
    from asked_rows
)

select distinct
    horizons.record_id,
    horizons.instant_us,
    keyed_versions.value
from horizons
inner join keyed_versions on horizons.record_id = keyed_versions.record_id
where
    keyed_versions.effective_us <= horizons.until_us
    and keyed_versions.superseded_us > horizons.until_us
