-- members: the texts known before the first change and the fresh ones, numbered in the order in which they were first known.
-- grain: content_id
-- reads: told_documents, known_contents, signed_contents
with fresh as (
    select
        told_documents.content_id,
        null as root_id,
        null as origin_id,
        null as origin_similarity,
        told_documents.record_id,
        told_documents.event_timestamp
    from told_documents
    anti join known_contents on told_documents.content_id = known_contents.content_id
    where told_documents.is_statement
    qualify
        row_number() over (
            partition by told_documents.content_id
            order by told_documents.event_timestamp, told_documents.record_id
        ) = 1
),

contents as (
    select
        *,
        false as is_fresh
    from known_contents

    union all by name

    select
        *,
        true as is_fresh
    from fresh
)

select
    contents.*,
    signed_contents.band_keys,
    row_number() over (order by contents.event_timestamp, contents.record_id) - 1 as position
from contents
inner join signed_contents on contents.content_id = signed_contents.content_id
