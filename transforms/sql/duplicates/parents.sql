-- parents: for each fresh text, the earliest text that it nearly repeats.
-- grain: position
-- reads: likenesses
select
    later as position,
    min(earlier) as parent,
    arg_min(similarity, earlier) as similarity
from likenesses
group by later
