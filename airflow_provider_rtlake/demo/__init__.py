"""What the demo and the tests share: input, and proof that every hop holds the same. No Airflow import."""
