-- compared_pairs: the pairs of all bands, each once, with both signatures.
-- grain: later, earlier
-- reads: pairs, members
with distinct_pairs as (
    select distinct
        later,
        earlier
    from pairs
)

select
    distinct_pairs.later,
    distinct_pairs.earlier,
    fresh.band_keys as later_keys,
    heads.band_keys as earlier_keys
from distinct_pairs
inner join members as fresh on distinct_pairs.later = fresh.position
inner join members as heads on distinct_pairs.earlier = heads.position
