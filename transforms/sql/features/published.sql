-- published: the newest published rows of the entities that change.
-- These are the row in effect at an entity's first change, and all later ones.
-- grain: entity_id, event_timestamp
-- reads: activity (a view's rows by entity_id), first_changes
with preceding as (
    select
        activity.entity_id,
        max(activity.event_timestamp) as event_timestamp
    from activity
    inner join first_changes on activity.entity_id = first_changes.entity_id
    where activity.event_timestamp <= first_changes.event_timestamp
    group by activity.entity_id
),

begins as (
    select
        first_changes.entity_id,
        coalesce(preceding.event_timestamp, first_changes.event_timestamp) as event_timestamp
    from first_changes
    left join preceding on first_changes.entity_id = preceding.entity_id
)

select activity.*
from activity
inner join begins on activity.entity_id = begins.entity_id
where activity.event_timestamp >= begins.event_timestamp
qualify row_number() over (
    partition by activity.entity_id, activity.event_timestamp
    order by activity.created_timestamp desc
) = 1
