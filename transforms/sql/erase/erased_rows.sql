-- erased_rows: the rows to be erased, with what became of them: those of an author, of a record, or of a file. A rejected row could
-- not be read, so it goes where its bytes name the author or the record as a word of their own.
-- grain: load_id, source_uri, row_number
-- reads: staging.records, staging.repeats, quarantine.records
with staged as (
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

repeated as (
    -- a repeat that came back as a version is none
    select
        repeats.record_id,
        repeats.author_id,
        repeats.subject_id,
        repeats.source,
        repeats.load_id,
        repeats.source_uri,
        repeats.row_number,
        'duplicate' as outcome
    from staging.repeats
    anti join staged
        on
            repeats.load_id = staged.load_id
            and repeats.source_uri = staged.source_uri
            and repeats.row_number = staged.row_number
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
    where
        source_uri = getvariable('erased_file')
        or regexp_matches(coalesce(try(decode(payload)), payload::varchar), getvariable('erased_name'))
),

readable as (
    select * from staged
    union all
    select * from repeated
)

select * from readable
where
    author_id = getvariable('erased_author')
    or record_id = getvariable('erased_record')
    or source_uri = getvariable('erased_file')
union all
select * from rejected
