select
    payment_type_id,
    payment_type_name,
    payment_type_id in (1, 2) as is_paid
from {{ ref('stg_payment_types') }}
