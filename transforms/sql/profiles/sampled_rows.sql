-- sampled_rows: the accepted rows of which what is expensive is told: of every load at most $n_rows, by chance, the same every time.
-- grain: accepted_id
-- reads: accepted
select accepted_id
from accepted
qualify row_number() over (partition by load_id order by md5(content_digest || row_number::varchar), source_uri) <= $n_rows
