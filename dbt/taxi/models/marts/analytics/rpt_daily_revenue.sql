select
    days.day_date,
    days.is_weekend,
    coalesce(daily.trip_count, 0) as trip_count,
    coalesce(daily.revenue_amount, cast(0 as decimal(18, 2))) as revenue_amount,
    coalesce(daily.tip_amount, cast(0 as decimal(18, 2))) as tip_amount,
    coalesce(daily.distance_miles, cast(0 as decimal(18, 2))) as distance_miles,
    cast(
        avg(coalesce(daily.revenue_amount, 0))
            over (order by days.day_date rows between 6 preceding and current row)
        as double
    ) as mean_revenue_7_days
from {{ ref('dim_dates') }} as days
left join {{ ref('int_daily_summary') }} as daily on days.day_date = daily.pickup_date
