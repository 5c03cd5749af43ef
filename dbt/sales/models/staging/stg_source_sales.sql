select
    id as sale_id,
    product_name,
    category,
    cast(price as decimal(38, 6)) as price,
    quantity
from {{ source('source', 'source_sales') }}
