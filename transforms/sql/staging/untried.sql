-- untried: the rejected rows that are not replayed: of other sources, or rejected since it began.
-- grain: load_id, source_uri, row_number
-- reads: quarantine.records, incoming
select records.*
from quarantine.records
anti join incoming
    on
        records.load_id = incoming.load_id
        and records.source_uri = incoming.source_uri
        and records.row_number = incoming.row_number
