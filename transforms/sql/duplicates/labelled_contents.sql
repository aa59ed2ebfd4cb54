-- labelled_contents: the texts with their cluster and their origin.
-- The origin is the first record that had the text that this one nearly repeats, or else this text.
-- grain: content_id
-- reads: members, parents
select
    members.content_id,
    coalesce(members.root_id, root.root_id, root.content_id, members.content_id) as root_id,
    coalesce(members.origin_id, parent.record_id, members.record_id) as origin_id,
    coalesce(members.origin_similarity, parents.similarity, 1.0) as origin_similarity
from members
left join parents on members.position = parents.position
left join members as parent on parents.parent = parent.position
left join members as root on parents.root = root.position
