-- members: the known and fresh texts to label or compare, numbered by when they first occur.
-- grain: content_id
-- reads: known_contents, fresh_contents, signed_contents
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
    contents.*,
    signed_contents.band_keys,
    row_number() over (order by contents.event_timestamp, contents.record_id) - 1 as position
from contents
inner join signed_contents on contents.content_id = signed_contents.content_id
