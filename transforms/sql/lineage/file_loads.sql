-- file_loads: what became of a file's rows in each load, including replays.
-- grain: load_id
-- reads: accounting.files
select
    load_id,
    source,
    sum(n_read)::bigint as n_read,
    sum(n_staged)::bigint as n_staged,
    sum(n_duplicates)::bigint as n_duplicates,
    sum(n_quarantined)::bigint as n_quarantined
from accounting.files
where source_uri = $source_uri
group by load_id, source
order by load_id
