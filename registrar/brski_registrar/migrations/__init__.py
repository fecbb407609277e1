"""The registrar's schema, revision by revision; how they run is told in `brski_common.migrations`."""
