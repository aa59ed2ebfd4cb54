-- reference_columns: the profiles of the newest $n_loads staged loads of $source; until $before,
-- without the loads in $judged.
-- grain: load_id, column
-- reads: accounting.files, profiles.columns
with published as (
    select distinct load_id
    from accounting.files
    where source = $source and load_id not in $judged
),

profiled as (
    select * from profiles.columns
    where relation = 'staging.records' and source = $source and loaded_timestamp <= $before
),

window_of_loads as (
    select distinct
        load_id,
        loaded_timestamp
    from profiled
    where load_id in (select published.load_id from published)
    order by loaded_timestamp desc, load_id desc
    limit $n_loads
)

select * from profiled
where load_id in (select window_of_loads.load_id from window_of_loads)
order by loaded_timestamp, load_id, "column"
