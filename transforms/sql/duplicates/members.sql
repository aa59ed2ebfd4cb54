-- members: the known and fresh texts to label or compare, numbered by when they first occur.
-- grain: content_id
-- reads: known_contents, fresh_contents
with contents as (
    select
        *,
        false as is_fresh
    from known_contents

    union all by name

    select
        *,
        true as is_fresh
    from fresh_contents
)

select
    *,
    row_number() over (order by event_timestamp, record_id) - 1 as position
from contents
