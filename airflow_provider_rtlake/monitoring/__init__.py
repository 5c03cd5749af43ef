"""RTLake's own metrics for Prometheus: what no exporter of a single service can know.

One process (``python -m airflow_provider_rtlake.monitoring``) asks Kafka, Connect, Flink, Pinot and the history, each
at its own pace, and tells Prometheus what it heard last. Where a service is gone, its probe's ``rtlake_probe_up`` is 0
and its other figures disappear; the process never stops for that.
"""
