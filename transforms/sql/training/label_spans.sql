-- label_spans: the versions that meet a label's condition, each with when its record began to.
-- A record that meets it in one version after another, without a pause, began with the first.
-- grain: record_id, entity_id, effective_us
-- reads: keyed_versions
with met as (
    select
        *,
        coalesce(lag(superseded_us) over versions = effective_us, false) as is_continued
    from keyed_versions
    where is_met
    window versions as (partition by record_id, entity_id order by effective_us)
)

select
    * exclude (is_met, is_continued),
    max(case when not is_continued then effective_us end) over (
        partition by record_id, entity_id
        order by effective_us
    ) as starts_us
from met
