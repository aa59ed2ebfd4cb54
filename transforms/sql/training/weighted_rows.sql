-- weighted_rows: all positive rows, and at most `$negatives` negative ones for each of them.
-- They are drawn as in drawn_rows. Their weights add up to the number of all negative rows.
-- grain: that of labelled_rows
-- reads: labelled_rows
with counts as (
    select
        ceil($negatives * count(*) filter (where label)) as n_wanted,
        count(*) filter (where not label) as n_negative
    from labelled_rows
),

digested as (
    select
        *,
        md5_number_lower(
            concat_ws('/', $seed, 'negatives', entity_id::varchar, record_id, instant_us)
        ) as digest
    from labelled_rows
),

placed as (
    select
        *,
        row_number() over (
            partition by label
            order by digest, instant_us
        ) as place
    from digested
),

kept as (
    select
        placed.*,
        counts.n_negative,
        counts.n_wanted
    from placed
    cross join counts
    where placed.label or placed.place <= counts.n_wanted
)

select
    * exclude (digest, place, n_negative, n_wanted),
    case
        when label then 1.0
        else n_negative / least(n_negative, n_wanted)
    end::double as weight
from kept
