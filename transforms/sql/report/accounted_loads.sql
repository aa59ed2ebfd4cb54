-- accounted_loads: what became of every load's rows, according to the books.
-- grain: source, load_id
-- reads: accounting.files
select
    source,
    load_id,
    -- a load is named after the moment it began
    try_strptime(left(load_id, 15), '%Y%m%dT%H%M%S') as loaded_timestamp,
    sum(n_read)::bigint as n_read,
    sum(n_staged)::bigint as n_staged,
    sum(n_duplicates)::bigint as n_duplicates,
    sum(n_quarantined)::bigint as n_quarantined
from accounting.files
group by source, load_id
order by load_id asc, source asc
