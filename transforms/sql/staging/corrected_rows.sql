-- corrected_rows: the incoming rows, each with its newest correction, if any, as its payload.
-- grain: load_id, source_uri, row_number
-- reads: incoming, quarantine.corrections
with newest as (
    select * from quarantine.corrections
    qualify row_number() over (
        partition by load_id, source_uri, row_number
        order by corrected_timestamp desc
    ) = 1
)

select incoming.* replace (coalesce(newest.payload, incoming.payload) as payload)
from incoming
left join newest
    on
        incoming.load_id = newest.load_id
        and incoming.source_uri = newest.source_uri
        and incoming.row_number = newest.row_number
