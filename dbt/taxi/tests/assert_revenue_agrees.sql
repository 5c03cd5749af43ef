-- The days' revenue is the trips' revenue, to the cent.
with trips as (
    select sum(total_amount) as revenue from {{ ref('fct_trips') }}
),

days as (
    select sum(revenue_amount) as revenue from {{ ref('rpt_daily_revenue') }}
)

select
    trips.revenue,
    days.revenue as days_revenue
from trips
cross join days
where trips.revenue <> days.revenue
