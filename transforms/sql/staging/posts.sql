-- posts: every post of a source among some rows of raw, with a digest of its rows' digests.
-- grain: source_uri
-- reads: arrived
select
    source_uri,
    any_value(load_id) as load_id,
    count(*) as n_rows,
    sha256(string_agg(sha256(payload), '' order by row_number)) as digest
from arrived
where source = $source and starts_with(source_uri, 'post:')
group by source_uri
order by source_uri
