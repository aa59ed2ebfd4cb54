-- bucket_pairs: every fresh text with the first texts (`n_heads`) of its bucket in one band.
-- The thousands of texts made from one template thus pair with the first few of them only, and the
-- number of pairs does not grow with their square.
-- grain: later, earlier
-- reads: members
with keyed as (
    select
        position,
        is_fresh,
        band_keys[getvariable('band')] as band_key
    from members
    where band_keys is not null
),

shared as (
    select band_key
    from keyed
    group by band_key
    having count(*) > 1 and bool_or(is_fresh)
),

placed as (
    select
        *,
        row_number() over (partition by band_key order by position) as place
    from keyed
    where band_key in (select shared.band_key from shared)
)

select
    fresh.position as later,
    heads.position as earlier
from placed as fresh
inner join placed as heads
    on
        fresh.band_key = heads.band_key
        and fresh.position > heads.position
where
    fresh.is_fresh
    and heads.place <= getvariable('n_heads')
