-- A zone has exactly one state that holds now.
select
    zone_id,
    sum(case when dbt_valid_to is null then 1 else 0 end) as current_states
from {{ ref('zones_history') }}
group by zone_id
having sum(case when dbt_valid_to is null then 1 else 0 end) <> 1
