-- neighbours: the other texts that share a bucket with a fresh one, in any band.
-- Keys of different bands may be equal by chance: that only adds texts which then match nothing.
-- grain: content_id
-- reads: signed_contents, fresh_contents
with fresh_keys as (
    select distinct unnest(signed_contents.band_keys) as band_key
    from signed_contents
    semi join fresh_contents on signed_contents.content_id = fresh_contents.content_id
),

other_keys as (
    select
        signed_contents.content_id,
        unnest(signed_contents.band_keys) as band_key
    from signed_contents
    anti join fresh_contents on signed_contents.content_id = fresh_contents.content_id
)

select distinct other_keys.content_id
from other_keys
semi join fresh_keys on other_keys.band_key = fresh_keys.band_key
