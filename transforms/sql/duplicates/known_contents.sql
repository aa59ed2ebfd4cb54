-- known_contents: the texts said before the first change that are said again or share a bucket with a fresh one, with the place of
-- the first, and what that was labelled.
-- grain: content_id
-- reads: indexed_documents, described_documents, neighbours
with wanted as (
    select content_id from neighbours
    union all
    select content_id from described_documents
    where is_statement
)

select
    content_id,
    root_id,
    origin_id,
    origin_similarity,
    record_id,
    event_timestamp
from indexed_documents
where
    event_timestamp < getvariable('first_change')
    and content_id in (select wanted.content_id from wanted)
qualify row_number() over (partition by content_id order by event_timestamp, record_id) = 1
