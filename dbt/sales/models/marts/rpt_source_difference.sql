{#- History and source are read at slightly different instants: while the source changes, a small difference is lag. -#}
with history as (
    select coalesce(category, 'unknown') as category, count(*) as sales, sum(revenue) as revenue
    from {{ ref('dim_sales_current') }}
    group by 1
),

source as (
    select
        coalesce(category, 'unknown') as category,
        count(*) as sales,
        sum(price * quantity) as revenue
    from {{ ref('stg_source_sales') }}
    group by 1
)

select
    coalesce(history.category, source.category) as category,
    coalesce(history.sales, 0) as history_sales,
    coalesce(source.sales, 0) as source_sales,
    coalesce(history.sales, 0) - coalesce(source.sales, 0) as sales_difference,
    coalesce(history.revenue, 0) - coalesce(source.revenue, 0) as revenue_difference
from history
full outer join source on history.category = source.category
