-- erased_rows: the rows to be erased, with what became of them: those of an author, of a record, or of a file. A rejected row could
-- not be read, so it goes where its bytes name the author or the record as a word of their own; and so does a row that was corrected,
-- whatever it became, where its bytes as they came or as they were corrected do.
-- grain: load_id, source_uri, row_number
-- reads: raw.records, staging.records, staging.duplicate_rows, quarantine.records,
-- quarantine.corrections
with unread as (
    select
        load_id,
        source_uri,
        row_number,
        payload
    from quarantine.records

    union all

    select
        load_id,
        source_uri,
        row_number,
        payload
    from quarantine.corrections

    union all

    select
        records.load_id,
        records.source_uri,
        records.row_number,
        records.payload
    from raw.records
    semi join quarantine.corrections
        on
            records.load_id = corrections.load_id
            and records.source_uri = corrections.source_uri
            and records.row_number = corrections.row_number
),

naming as (
    select distinct
        load_id,
        source_uri,
        row_number
    from unread
    where regexp_matches(coalesce(try(decode(payload)), payload::varchar), getvariable('erased_name'))
),

staged as (
    select
        record_id,
        author_id,
        subject_id,
        source,
        load_id,
        source_uri,
        row_number,
        'staged' as outcome
    from staging.records
),

duplicates as (
    -- without those that became versions again
    select
        duplicate_rows.record_id,
        duplicate_rows.author_id,
        duplicate_rows.subject_id,
        duplicate_rows.source,
        duplicate_rows.load_id,
        duplicate_rows.source_uri,
        duplicate_rows.row_number,
        'duplicate' as outcome
    from staging.duplicate_rows
    anti join staged
        on
            duplicate_rows.load_id = staged.load_id
            and duplicate_rows.source_uri = staged.source_uri
            and duplicate_rows.row_number = staged.row_number
),

rejected as (
    select
        null as record_id,
        null as author_id,
        null as subject_id,
        source,
        load_id,
        source_uri,
        row_number,
        'quarantined' as outcome
    from quarantine.records
),

accounted as (
    select * from staged
    union all
    select * from duplicates
    union all
    select * from rejected
)

select accounted.*
from accounted
left join naming
    on
        accounted.load_id = naming.load_id
        and accounted.source_uri = naming.source_uri
        and accounted.row_number = naming.row_number
where
    accounted.author_id = getvariable('erased_author')
    or accounted.record_id = getvariable('erased_record')
    or accounted.source_uri = getvariable('erased_file')
    or naming.load_id is not null
