-- rejected_by_load: how many rows of each load each rule rejects.
-- grain: source, load_id, column, rule
-- reads: quarantine.records
select
    source,
    load_id,
    "column",
    rule,
    count(*) as n_rows
from quarantine.records
group by source, load_id, "column", rule
order by load_id asc, n_rows desc, "column" asc, rule asc
