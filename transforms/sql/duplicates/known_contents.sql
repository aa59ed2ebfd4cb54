-- known_contents: the texts from before the first change that matter after it, with their labels.
-- They are those that are said again and those that share a bucket with a fresh text. Each comes
-- with the document that had it first and how that was labelled.
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
