-- weighted_rows: all positive rows, and at most `$negatives` negative ones for each of them.
-- They are drawn as in drawn_rows. Their weights add up to the number of all negative rows.
-- grain: that of labelled_rows
-- reads: labelled_rows
with placed as (
    select
        *,
        count(*) filter (where label) over () as n_positive,
        count(*) filter (where not label) over () as n_negative,
        row_number() over (
            partition by label
            order by
                md5_number_lower(
                    concat_ws('/', $seed, 'negatives', entity_id::varchar, record_id, instant_us)
                ),
                instant_us
        ) as place
    from labelled_rows
)

select
    * exclude (n_positive, n_negative, place),
    case
        when label then 1.0
        else n_negative / least(n_negative, ceil($negatives * n_positive))
    end::double as weight
from placed
where label or place <= ceil($negatives * n_positive)
