select
    sale_id,
    product_name,
    category,
    price,
    quantity,
    price * quantity as revenue,
    sale_date,
    created_at,
    valid_from as changed_at
from {{ ref('stg_sales_versions') }}
where is_current
