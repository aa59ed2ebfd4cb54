-- post_accounts: what became of the rows of posts, including replays.
-- grain: source_uri
-- reads: accounts
select
    source_uri,
    sum(n_staged)::bigint as n_staged,
    sum(n_duplicates)::bigint as n_duplicates,
    sum(n_quarantined)::bigint as n_quarantined
from accounts
where source = $source and list_contains($uris::varchar[], source_uri)
group by source_uri
order by source_uri
