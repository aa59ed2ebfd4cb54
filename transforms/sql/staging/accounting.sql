-- accounting: what became of each file's rows. Every count is of rows; none is a difference.
-- grain: load_id, source_uri
-- reads: incoming, accepted, kept, rejected
with outcomes as (
    select
        load_id,
        source_uri,
        count(*) as n_read,
        0 as n_staged,
        0 as n_duplicates,
        0 as n_quarantined
    from incoming
    group by load_id, source_uri

    union all

    select
        accepted.load_id,
        accepted.source_uri,
        0 as n_read,
        count(*) filter (where kept.accepted_id is not null) as n_staged,
        count(*) filter (where kept.accepted_id is null) as n_duplicates,
        0 as n_quarantined
    from accepted
    left join kept on accepted.accepted_id = kept.accepted_id
    group by accepted.load_id, accepted.source_uri

    union all

    select
        load_id,
        source_uri,
        0 as n_read,
        0 as n_staged,
        0 as n_duplicates,
        count(*) as n_quarantined
    from rejected
    group by load_id, source_uri
)

select
    load_id,
    $source as source,
    source_uri,
    sum(n_read)::bigint as n_read,
    sum(n_staged)::bigint as n_staged,
    sum(n_duplicates)::bigint as n_duplicates,
    sum(n_quarantined)::bigint as n_quarantined
from outcomes
group by load_id, source_uri
order by load_id, source_uri
