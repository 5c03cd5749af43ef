{#- The state at the end of each day, told by the versions that held then. -#}
with days as (
    select distinct cast(valid_from at time zone 'UTC' as date) as day
    from {{ ref('stg_sales_versions') }}
),

ends as (
    select
        day,
        with_timezone(cast(date_add('day', 1, day) as timestamp(6)), 'UTC') as as_of
    from days
)

select
    ends.day,
    ends.as_of,
    coalesce(versions.category, 'unknown') as category,
    count(*) as sales,
    sum(versions.price * versions.quantity) as revenue
from ends
inner join {{ ref('stg_sales_versions') }} as versions
    on versions.valid_from < ends.as_of
    and (versions.valid_to is null or versions.valid_to >= ends.as_of)
group by 1, 2, 3
