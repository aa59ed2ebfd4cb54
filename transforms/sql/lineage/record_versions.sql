-- record_versions: every version of a record, with the size and the digest of the raw row that it came from.
-- grain: record_id, known_timestamp
-- reads: staging.records, raw.records
with versions as (
    select * from staging.records
    where record_id = $record_id
)

select
    versions.*,
    octet_length(rows.payload) as raw_bytes,
    sha256(rows.payload) as raw_digest
from versions
left join raw.records as rows
    on
        versions.load_id = rows.load_id
        and versions.source_uri = rows.source_uri
        and versions.row_number = rows.row_number
order by versions.known_timestamp
