-- arrivals: how many versions became known in each period, and how long after they were written
-- (50th, 90th and 99th percentile).
-- grain: source, period
-- reads: staging.records
with versions as (
    select
        source,
        date_trunc($unit, known_timestamp) as period,
        -- a clock that runs ahead is no lateness
        greatest(epoch(known_timestamp) - epoch(event_timestamp), 0) as late_seconds
    from staging.records
)

select
    source,
    period,
    count(*) as n_versions,
    approx_quantile(late_seconds, 0.5) as late_seconds_p50,
    approx_quantile(late_seconds, 0.9) as late_seconds_p90,
    approx_quantile(late_seconds, 0.99) as late_seconds_p99
from versions
group by source, period
order by source, period
