"""What the network is: loading, tracing, layers and data."""
