-- author_activity: what an author has written lately and so far.
-- grain: author_id, event_timestamp
-- reads: entity_activity (over record_changes by author_id)
select
    entity_id as author_id,
    * exclude (entity_id)
from entity_activity
