"""Event-driven rotation of the database credentials that Airflow keeps in Azure Key Vault."""
