-- asked_rows: the given corrections, each with its row in quarantine: as it came, and as it is read
-- now; both are null if there is no such row.
-- grain: row
-- reads: asked, quarantine.records, quarantine.corrections
with newest as (
    select * from quarantine.corrections
    qualify row_number() over (
        partition by load_id, source_uri, row_number
        order by corrected_timestamp desc
    ) = 1
),

waiting as (
    select * from quarantine.records
    where source = $source
)

select
    asked.row,
    asked.load_id,
    $source as source, -- noqa: RF02
    asked.source_uri,
    asked.row_number,
    asked.payload_digest,
    asked.payload,
    waiting.payload as original,
    coalesce(newest.payload, waiting.payload) as in_effect
from asked
left join waiting
    on
        asked.load_id = waiting.load_id
        and asked.source_uri = waiting.source_uri
        and asked.row_number = waiting.row_number
left join newest
    on
        asked.load_id = newest.load_id
        and asked.source_uri = newest.source_uri
        and asked.row_number = newest.row_number
