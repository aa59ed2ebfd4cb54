-- known_contents: the texts that records had before the first change, with the place of the first, and what that was labelled.
-- grain: content_id
-- reads: held_documents
select
    content_id,
    root_id,
    origin_id,
    origin_similarity,
    record_id,
    event_timestamp
from held_documents
where
    event_timestamp < getvariable('first_change')
    and content_id is not null
qualify row_number() over (partition by content_id order by event_timestamp, record_id) = 1
