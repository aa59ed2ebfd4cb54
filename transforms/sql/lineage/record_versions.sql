-- record_versions: every version of a record, with the size and digest of its raw row,
-- and the time and digest of that row's last correction.
-- grain: record_id, known_timestamp
-- reads: staging.records, raw.records, quarantine.corrections
with versions as (
    select * from staging.records
    where record_id = $record_id
),

corrected as (
    select * from quarantine.corrections
    qualify
        row_number() over (
            partition by load_id, source_uri, row_number
            order by corrected_timestamp desc
        ) = 1
)

select
    versions.*,
    octet_length(rows.payload) as raw_bytes,
    sha256(rows.payload) as raw_digest,
    corrected.corrected_timestamp,
    sha256(corrected.payload) as corrected_digest
from versions
left join raw.records as rows
    on
        versions.load_id = rows.load_id
        and versions.source_uri = rows.source_uri
        and versions.row_number = rows.row_number
left join corrected
    on
        versions.load_id = corrected.load_id
        and versions.source_uri = corrected.source_uri
        and versions.row_number = corrected.row_number
order by versions.known_timestamp
