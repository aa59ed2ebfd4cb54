-- repeated_texts: how many texts of a load stand in it more than once, as counts of the profile's column `is_repeated_text`.
-- grain: load_id, key
-- reads: spooled
with texts as (
    select
        load_id,
        hash(text) as text_hash,
        count(*) as n
    from spooled
    where text is not null
    group by load_id, hash(text)
)

select
    load_id,
    'is_repeated_text' as "column",
    'category' as kind,
    unnest(['false', 'true']) as key,
    unnest([count(*), sum(n)::bigint - count(*)]) as n
from texts
group by load_id
