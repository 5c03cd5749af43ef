with days as (
    {{ days_between(ref('int_daily_summary'), 'pickup_date') }}
)

select
    day_date,
    cast(extract(year from day_date) as int) as year_number,
    cast(extract(quarter from day_date) as int) as quarter_number,
    cast(extract(month from day_date) as int) as month_number,
    cast(extract(day from day_date) as int) as day_of_month,
    cast({{ iso_weekday('day_date') }} as int) as weekday_number,
    {{ iso_weekday('day_date') }} >= 6 as is_weekend
from days
