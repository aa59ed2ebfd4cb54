-- recount: the rows of every load in the tables, and whether the accounts say the same.
-- grain: source, load_id
-- reads: accounting.files, raw.records, staging.records, staging.duplicate_rows, quarantine.records
with accounted as (
    select
        source,
        load_id,
        sum(n_read) as n_read,
        sum(n_staged) as n_staged,
        sum(n_duplicates) as n_duplicates,
        sum(n_quarantined) as n_quarantined
    from accounting.files
    group by source, load_id
),

duplicates as (
    -- without those that became versions again
    select duplicate_rows.* from staging.duplicate_rows
    anti join staging.records
        on
            duplicate_rows.load_id = records.load_id
            and duplicate_rows.source_uri = records.source_uri
            and duplicate_rows.row_number = records.row_number
),

found as (
    select
        source,
        load_id,
        1 as n_read,
        0 as n_staged,
        0 as n_duplicates,
        0 as n_quarantined
    from raw.records

    union all

    select
        source,
        load_id,
        0 as n_read,
        1 as n_staged,
        0 as n_duplicates,
        0 as n_quarantined
    from staging.records

    union all

    select
        source,
        load_id,
        0 as n_read,
        0 as n_staged,
        1 as n_duplicates,
        0 as n_quarantined
    from duplicates

    union all

    select
        source,
        load_id,
        0 as n_read,
        0 as n_staged,
        0 as n_duplicates,
        1 as n_quarantined
    from quarantine.records
),

counted as (
    select
        source,
        load_id,
        sum(n_read) as n_read,
        sum(n_staged) as n_staged,
        sum(n_duplicates) as n_duplicates,
        sum(n_quarantined) as n_quarantined
    from found
    group by source, load_id
)

select
    counted.source,
    counted.load_id,
    counted.n_read::bigint as n_read,
    counted.n_staged::bigint as n_staged,
    counted.n_duplicates::bigint as n_duplicates,
    counted.n_quarantined::bigint as n_quarantined,
    coalesce(
        accounted.n_read = counted.n_read
        and accounted.n_staged = counted.n_staged
        and accounted.n_duplicates = counted.n_duplicates
        and accounted.n_quarantined = counted.n_quarantined
        and counted.n_read = counted.n_staged + counted.n_duplicates + counted.n_quarantined,
        false
    ) as adds_up
from counted
left join accounted
    on
        counted.source = accounted.source
        and counted.load_id = accounted.load_id
order by counted.source, counted.load_id
