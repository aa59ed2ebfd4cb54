-- resting_rows: how many rows of entities depend on at least one span, and of how many entities.
-- grain: none
-- reads: entity_spans, entity_rows
with changes as (
    select
        entity_id,
        counts_from as instant,
        1 as weight,
        0 as is_row
    from entity_spans
    where coalesce(counts_from < until, true)

    union all

    select
        entity_id,
        until as instant,
        -1 as weight,
        0 as is_row
    from entity_spans
    where counts_from < until

    union all

    select
        entity_id,
        event_timestamp as instant,
        0 as weight,
        1 as is_row
    from entity_rows
),

running as (
    select
        entity_id,
        is_row,
        -- a row at the instant of a change already includes it
        sum(weight) over (
            partition by entity_id
            order by instant, is_row
            rows between unbounded preceding and current row
        ) as n_counted
    from changes
)

select
    count(*) as n_rows,
    count(distinct entity_id) as n_entities
from running
where
    is_row = 1
    and n_counted > 0
