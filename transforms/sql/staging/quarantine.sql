-- quarantine: the whole rejected rows, each with its reason.
-- grain: load_id, source_uri, row_number
-- reads: rejected, incoming
select
    -- ids
    incoming.load_id,
    incoming.source,
    incoming.source_uri,
    incoming.row_number,
    -- reason
    rejected."column",
    rejected.rule,
    rejected.digest,
    $schema_version::bigint as schema_version, -- noqa: RF02
    -- text
    incoming.header,
    incoming.payload,
    -- timestamps
    incoming.loaded_timestamp
from rejected
inner join incoming
    on
        rejected.load_id = incoming.load_id
        and rejected.source_uri = incoming.source_uri
        and rejected.row_number = incoming.row_number
