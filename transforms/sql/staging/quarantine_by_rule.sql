-- quarantine_by_rule: how many rows each rule rejects, in all and in the source's newest loads
-- (oldest first), with the rows that were read.
-- grain: source, column, rule
-- reads: quarantine.records, accounting.files
with loads as (
    select
        source,
        load_id,
        sum(n_read)::bigint as n_read,
        sum(sum(n_read)) over (partition by source)::bigint as n_read_of_source,
        row_number() over (partition by source order by load_id desc) as age
    from accounting.files
    group by source, load_id
),

waiting as (
    select
        source,
        "column",
        rule,
        load_id,
        count(*) as n_rows
    from quarantine.records
    group by source, "column", rule, load_id
),

rules as (
    select
        source,
        "column",
        rule,
        count(*) as n_rows,
        count(distinct source_uri) as n_files,
        min(source_uri) as first_file
    from quarantine.records
    group by source, "column", rule
)

select
    rules.source,
    rules."column",
    rules.rule,
    rules.n_rows,
    rules.n_files,
    rules.first_file,
    any_value(loads.n_read_of_source) as n_read,
    list(coalesce(waiting.n_rows, 0)::bigint order by loads.load_id) as n_rows_by_load,
    list(loads.n_read order by loads.load_id) as n_read_by_load
from rules
inner join loads
    on
        rules.source = loads.source
        and loads.age <= $n_loads -- noqa: RF02
left join waiting
    on
        rules.source = waiting.source
        and rules."column" = waiting."column"
        and rules.rule = waiting.rule
        and loads.load_id = waiting.load_id
group by rules.source, rules."column", rules.rule, rules.n_rows, rules.n_files, rules.first_file
order by rules.source asc, rules.n_rows desc, rules."column" asc, rules.rule asc
