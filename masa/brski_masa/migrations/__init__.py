"""The revisions of the MASA's schema; `versions/` holds them, `brski_common.migrations` runs them."""
