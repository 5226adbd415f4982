"""All that knows Kedro or MLflow: hooks, datasets, the run log, notebooks, catalog docs."""
