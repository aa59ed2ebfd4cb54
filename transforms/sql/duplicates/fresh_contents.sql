-- fresh_contents: the texts that first occur at or after the first change, and where they do.
-- grain: content_id
-- reads: described_documents, indexed_documents
with said_before as (
    select content_id from indexed_documents
    where event_timestamp < getvariable('first_change')
)

select
    described_documents.content_id,
    described_documents.record_id,
    described_documents.event_timestamp
from described_documents
anti join said_before on described_documents.content_id = said_before.content_id
where described_documents.is_statement
qualify
    row_number() over (
        partition by described_documents.content_id
        order by described_documents.event_timestamp, described_documents.record_id
    ) = 1
