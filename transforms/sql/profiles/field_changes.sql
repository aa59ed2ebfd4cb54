-- field_changes: what changed in the fields of a source, in its loads after a given one; a field
-- that stays away is missing once.
-- grain: load_id, field, type
-- reads: profiles.fields
with described as (
    -- what a replay adds shares the key
    select
        load_id,
        field,
        type,
        change,
        sum(n_rows)::bigint as n_rows
    from profiles.fields
    where source = $source
    group by load_id, field, type, change
),

followed as (
    select
        *,
        max(change = 'missing') over (partition by field, load_id) as is_missing
    from described
),

compared as (
    select
        *,
        lag(is_missing) over (partition by field order by load_id, type) as was_missing
    from followed
)

select
    load_id,
    field,
    type,
    change,
    n_rows
from compared
where
    load_id > $after
    and (change in ('new', 'retyped') or (change = 'missing' and not coalesce(was_missing, false)))
order by load_id, change, field, type
