-- day_orders: rejected dates of every load that are dates only with day and month in one order.
-- They are counted by which of the two numbers is above 12, beside the rows that passed and how
-- many of these have a date in the first twelve days of a month.
-- grain: load_id, column
-- reads: accepted, rejected
with written as (
    select
        load_id,
        "column",
        count(*) as n_dates,
        count(*) filter (where day_order = 'first') as n_first,
        count(*) filter (where day_order = 'second') as n_second
    from rejected
    where day_order is not null
    group by load_id, "column"
),

passed as (
    select
        load_id,
        count(*) as n_passed,
        count(*) filter (where day(event_timestamp) <= 12) as n_event_days,
        count(*) filter (where day(known_timestamp) <= 12) as n_known_days
    from accepted
    group by load_id
)

select
    written.load_id,
    written."column",
    written.n_dates,
    written.n_first,
    written.n_second,
    passed.n_passed,
    if(
        written."column" = 'event_timestamp', passed.n_event_days, passed.n_known_days
    ) as n_first_days
from written
inner join passed on written.load_id = passed.load_id
