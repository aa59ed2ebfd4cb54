-- erased_accounts: the erased rows as negative counts in the accounts of their files.
-- grain: load_id, source_uri
-- reads: erased_rows
select
    load_id,
    source,
    source_uri,
    -count(*)::bigint as n_read,
    -sum((outcome = 'staged')::int)::bigint as n_staged,
    -sum((outcome = 'duplicate')::int)::bigint as n_duplicates,
    -sum((outcome = 'quarantined')::int)::bigint as n_quarantined
from erased_rows
group by load_id, source, source_uri
order by load_id, source_uri
