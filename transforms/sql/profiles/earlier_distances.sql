-- earlier_distances: how far each of the newest $n_loads staged loads of $source was from the loads
-- before it; until $before, without the loads in $judged.
-- grain: load_id, column, statistic
-- reads: accounting.files, profiles.columns, profiles.drift
with published as (
    select distinct load_id
    from accounting.files
    where source = $source and load_id not in $judged
),

measured as (
    select
        load_id,
        loaded_timestamp,
        "column",
        statistic,
        value,
        warn,
        verdict,
        n_reference_loads
    from profiles.drift
    where
        source = $source
        and loaded_timestamp <= $before
        and value is not null
        and load_id in (select published.load_id from published)
    qualify dense_rank() over (order by loaded_timestamp desc, load_id desc) <= $n_loads
),

counted as (
    select
        load_id,
        "column",
        n_rows
    from profiles.columns
    where relation = 'staging.records' and source = $source
)

select
    measured.*,
    counted.n_rows
from measured
inner join counted on measured.load_id = counted.load_id and measured."column" = counted."column"
order by measured.loaded_timestamp, measured.load_id, measured."column", measured.statistic
