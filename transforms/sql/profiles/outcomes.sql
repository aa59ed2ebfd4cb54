-- outcomes: what became of every load's rows, as counts of the profile's column `outcome`.
-- grain: load_id, key
-- reads: accepted, kept, rejected
with outcomes as (
    select
        load_id,
        if(accepted_id in (select kept.accepted_id from kept), 'staged', 'duplicate') as key
    from accepted

    union all

    select
        load_id,
        'quarantined:' || rule as key
    from rejected
)

select
    load_id,
    'outcome' as "column",
    'category' as kind,
    key,
    count(*) as n
from outcomes
group by load_id, key
