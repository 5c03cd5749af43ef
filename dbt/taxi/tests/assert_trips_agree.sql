-- No report loses a trip.
with counted as (
    select 'fct_trips' as relation_name, count(*) as trip_count from {{ ref('fct_trips') }}
    union all
    select 'rpt_daily_revenue' as relation_name, sum(trip_count) as trip_count from {{ ref('rpt_daily_revenue') }}
    union all
    select 'rpt_hourly_demand' as relation_name, sum(trip_count) as trip_count from {{ ref('rpt_hourly_demand') }}
    union all
    select 'rpt_zone_days' as relation_name, sum(trip_count) as trip_count from {{ ref('rpt_zone_days') }}
    union all
    select 'rpt_location_performance' as relation_name, sum(trip_count) as trip_count
    from {{ ref('rpt_location_performance') }}
)

select
    min(trip_count) as fewest,
    max(trip_count) as most
from counted
having min(trip_count) <> max(trip_count)
