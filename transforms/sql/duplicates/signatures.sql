-- signatures: the signatures of the texts to label or compare, in the order of their positions.
-- A text that has no signature gets one of zeros, so that rows are positions.
-- grain: position
-- reads: members, signed_contents
select
    members.is_fresh,
    signed_contents.band_keys is not null as is_signed,
    coalesce(signed_contents.band_keys, repeat([0::bigint], getvariable('n_bands')))
        as band_keys
from members
inner join signed_contents on members.content_id = signed_contents.content_id
order by members.position
