-- drawn_rows: a sample of the rows, by digests of seed, entity, record and instant.
-- So the same rows are drawn in whatever order they come. At most `$per_entity` of each entity
-- are kept, then a share of those, then at most `$n_rows` in all.
-- grain: that of asked_rows
-- reads: asked_rows
with placed as (
    select
        *,
        md5_number_lower(concat_ws('/', $seed, entity_id::varchar, record_id, instant_us)) as place
    from asked_rows
),

capped as (
    select * from placed
    qualify row_number() over (
        partition by entity_id
        order by place, instant_us
    ) <= $per_entity
)

select * exclude (place)
from capped
where place::double < $share * 18446744073709551616
qualify row_number() over (
    order by place, instant_us
) <= $n_rows
