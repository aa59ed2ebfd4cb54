-- touched_entities: the records that lose a row, with every author and subject that any row of theirs names: what is computed
-- again once the rows are gone.
-- grain: record_id, author_id, subject_id
-- reads: erased_rows, staging.records, staging.repeats
with named as (
    select
        record_id,
        author_id,
        subject_id
    from staging.records

    union all

    select
        record_id,
        author_id,
        subject_id
    from staging.repeats
)

select distinct
    record_id,
    author_id,
    subject_id
from named
where record_id in (select erased_rows.record_id from erased_rows)
