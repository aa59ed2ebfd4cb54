-- repeated_texts: how many texts occur earlier among the same hundred rows of their file, as counts
-- of the column `is_repeated_nearby`.
-- over all rows of a load, the share would grow with the rows, and days of other sizes would differ
-- grain: load_id, key
-- reads: accepted
with texts as (
    select
        load_id,
        count(*) as n
    from accepted
    where text_hash is not null
    group by load_id, source_uri, row_number // 100, text_hash
)

select
    load_id,
    'is_repeated_nearby' as "column",
    'category' as kind,
    unnest(['false', 'true']) as key,
    unnest([count(*), sum(n)::bigint - count(*)]) as n
from texts
group by load_id
