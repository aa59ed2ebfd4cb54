-- moved_accounts: how the moved rows change the accounts of their files.
-- grain: load_id, source_uri
-- reads: moved_rows
select
    load_id,
    source,
    source_uri,
    0::bigint as n_read,
    sum(if(is_staged, -1, 1))::bigint as n_staged,
    sum(if(is_staged, 1, -1))::bigint as n_duplicates,
    0::bigint as n_quarantined
from moved_rows
group by load_id, source, source_uri
order by load_id, source_uri
