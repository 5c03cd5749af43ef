select
    pickup_weekday,
    pickup_hour,
    trip_count,
    day_count,
    revenue_amount,
    cast(trip_count * 1.0 / day_count as double) as mean_trips_a_day,
    cast(rank() over (order by trip_count desc) as int) as demand_rank
from {{ ref('int_hourly_patterns') }}
