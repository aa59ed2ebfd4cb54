-- known_fields: the fields that loads of a source let in, with their types; without some loads.
-- grain: field
-- reads: profiles.fields
with let_in as (
    select
        field,
        type
    from profiles.fields
    where
        source = $source
        and not list_contains($but::varchar[], load_id)
    group by field, type
    having sum(n_rows) > 0
)

select
    field,
    list(type order by type) as types
from let_in
group by field
