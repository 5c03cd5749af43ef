-- The calendar has every day between its first and its last.
select
    count(*) as day_count,
    min(day_date) as first_day,
    max(day_date) as last_day
from {{ ref('dim_dates') }}
having count(*) <> {{ dbt.datediff('min(day_date)', 'max(day_date)', 'day') }} + 1
