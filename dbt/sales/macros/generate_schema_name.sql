{#- A model's schema is the target's: no prefix, so that readers find `nessie.gold.<model>`. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ target.schema }}
{%- endmacro %}
