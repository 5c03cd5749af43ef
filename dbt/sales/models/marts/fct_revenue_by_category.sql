select
    coalesce(category, 'unknown') as category,
    count(*) as sales,
    count(distinct product_name) as products,
    sum(quantity) as units,
    sum(revenue) as revenue
from {{ ref('dim_sales_current') }}
group by 1
