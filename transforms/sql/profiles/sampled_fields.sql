-- sampled_fields: the names of fields in some of the incoming rows that are short JSON objects.
-- grain: field
-- reads: incoming
with sampled as (
    select try(decode(payload)) as document
    from incoming
    where
        header is null
        and octet_length(payload) < 100000
    limit $n_rows -- noqa: AM09
)

select distinct unnest(json_keys(document)) as field
from sampled
where json_valid(document)
