-- quarantine_by_rule: how many rows each rule keeps out.
-- grain: source, column, rule
-- reads: quarantine.records
select
    source,
    "column",
    rule,
    count(*) as n_rows,
    count(distinct source_uri) as n_files,
    min(source_uri) as first_file
from quarantine.records
group by source, "column", rule
order by n_rows desc, source asc, "column" asc, rule asc
