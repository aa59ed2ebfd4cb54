-- signatures: the signatures of the texts to label or compare; those that have none are left out.
-- grain: position
-- reads: members, signed_contents
select
    members.position,
    signed_contents.band_keys
from members
inner join signed_contents on members.content_id = signed_contents.content_id
where signed_contents.band_keys is not null
