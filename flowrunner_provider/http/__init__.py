"""HTTP and REST: requests, paginated extracts and downloads that can be retried without fear."""
