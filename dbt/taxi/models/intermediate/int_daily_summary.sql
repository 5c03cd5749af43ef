select
    pickup_date,
    count(*) as trip_count,
    cast(sum(total_amount) as decimal(18, 2)) as revenue_amount,
    cast(sum(fare_amount) as decimal(18, 2)) as fare_amount,
    cast(sum(tip_amount) as decimal(18, 2)) as tip_amount,
    cast(sum(trip_distance) as decimal(18, 2)) as distance_miles,
    cast(avg(duration_seconds) as double) as mean_duration_seconds,
    sum(case when is_airport_trip then 1 else 0 end) as airport_trip_count
from {{ ref('int_trip_metrics') }}
group by pickup_date
