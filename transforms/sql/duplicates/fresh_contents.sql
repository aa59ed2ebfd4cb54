-- fresh_contents: the texts that are said from the first change on and were not before, with the place of the first.
-- grain: content_id
-- reads: told_documents, held_documents
with said_before as (
    select content_id from held_documents
    where event_timestamp < getvariable('first_change')
)

select
    told_documents.content_id,
    told_documents.record_id,
    told_documents.event_timestamp
from told_documents
anti join said_before on told_documents.content_id = said_before.content_id
where told_documents.is_statement
qualify
    row_number() over (
        partition by told_documents.content_id
        order by told_documents.event_timestamp, told_documents.record_id
    ) = 1
