-- accounting: what became of each file's rows. Every count is of rows; none is a difference.
-- grain: load_id, source_uri
-- reads: incoming, accepted, kept, rejected
with outcomes as (
    select
        load_id,
        source_uri,
        1 as n_read,
        0 as n_staged,
        0 as n_duplicates,
        0 as n_quarantined
    from incoming

    union all

    select
        load_id,
        source_uri,
        0 as n_read,
        (accepted_id in (select kept.accepted_id from kept))::int as n_staged,
        (accepted_id not in (select kept.accepted_id from kept))::int as n_duplicates,
        0 as n_quarantined
    from accepted

    union all

    select
        load_id,
        source_uri,
        0 as n_read,
        0 as n_staged,
        0 as n_duplicates,
        1 as n_quarantined
    from rejected
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
