-- parents: of each fresh text the earliest one that it is nearly the same as.
-- grain: position
-- reads: likenesses
select
    later as position,
    min(earlier) as parent,
    arg_min(similarity, earlier) as similarity
from likenesses
group by later
