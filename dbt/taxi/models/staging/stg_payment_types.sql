select
    cast(payment_type_id as int) as payment_type_id,
    payment_type_name
from {{ ref('payment_types') }}
