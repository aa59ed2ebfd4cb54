-- sampled_rows: the accepted rows on which expensive columns are measured: at most $n_rows of every
-- load, chosen by digest, the same every time.
-- grain: accepted_id
-- reads: accepted
select accepted_id
from accepted
qualify
    row_number() over (
        partition by load_id order by md5(content_digest || row_number::varchar), source_uri
    ) <= $n_rows
