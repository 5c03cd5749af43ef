{# An export is a file beside the database where the engine can write one, else a table. #}
{% macro export_materialization() %}{{ return('external' if target.type == 'duckdb' else 'table') }}{% endmacro %}
