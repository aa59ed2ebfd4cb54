-- freshness: how much of each source is staged, and from when to when.
-- grain: source
-- reads: staging.records
select
    source,
    count(*) as n_versions,
    min(known_timestamp) as first_known_timestamp,
    max(known_timestamp) as last_known_timestamp,
    max(loaded_timestamp) as last_loaded_timestamp
from staging.records
group by source
order by source
