-- bucket_pairs: every fresh text with the first texts (`n_heads`) of its bucket, in some bands.
-- The thousands of texts made from one template thus pair with the first few of them only, and the
-- number of pairs does not grow with their square.
-- grain: later, earlier
-- reads: members
with banded as (
    select
        position,
        is_fresh,
        band_keys,
        unnest(getvariable('bands')) as band
    from members
    where band_keys is not null
),

keyed as (
    select
        position,
        is_fresh,
        band,
        band_keys[band] as band_key
    from banded
),

shared as (
    select
        band,
        band_key
    from keyed
    group by band, band_key
    having count(*) > 1 and bool_or(is_fresh)
),

placed as (
    select
        keyed.*,
        row_number() over (
            partition by keyed.band, keyed.band_key
            order by keyed.position
        ) as place
    from keyed
    semi join shared on keyed.band = shared.band and keyed.band_key = shared.band_key
)

select
    fresh.position as later,
    heads.position as earlier
from placed as fresh
inner join placed as heads
    on
        fresh.band = heads.band
        and fresh.band_key = heads.band_key
        and fresh.position > heads.position
where
    fresh.is_fresh
    and heads.place <= getvariable('n_heads')
