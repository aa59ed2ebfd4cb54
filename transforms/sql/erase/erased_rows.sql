-- erased_rows: the rows of an author, a record or a file, to be erased, and what became of them.
-- The columns of a rejected row are unknown, so it is erased if its bytes contain the author's or
-- the record's id as a whole word. A corrected row, whatever it became, is erased if its original
-- or its corrected bytes do.
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
    where regexp_matches(coalesce(try(decode(payload)), payload::varchar), $name::varchar)
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
),

compared as (
    select
        *,
        author_id = $author or record_id = $record or source_uri = $source_file as is_wanted
    from accounted
),

found as (
    select
        compared.*,
        naming.load_id is not null as is_named
    from compared
    left join naming
        on
            compared.load_id = naming.load_id
            and compared.source_uri = naming.source_uri
            and compared.row_number = naming.row_number
)

select * exclude (is_wanted, is_named)
from found
where is_wanted or is_named
