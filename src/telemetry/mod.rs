//! What the gateway tells: log events and metrics.
