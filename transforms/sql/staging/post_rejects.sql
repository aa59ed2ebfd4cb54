-- post_rejects: the rejected rows of posts, with the rule that each breaks.
-- grain: source_uri, row_number
-- reads: quarantined
select
    source_uri,
    row_number,
    "column",
    rule
from quarantined
where source = $source and list_contains($uris::varchar[], source_uri)
order by source_uri, row_number
