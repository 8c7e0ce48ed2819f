"""Models on a Ray cluster: replicas, the engine that calls them, where calls go, what runs as a job."""
