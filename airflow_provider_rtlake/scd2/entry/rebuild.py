"""What spark-submit starts to build histories anew: in a folder of its own, because Spark puts it first on the path."""

from airflow_provider_rtlake.scd2.rebuild import main

if __name__ == "__main__":
    raise SystemExit(main())
