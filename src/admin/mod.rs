//! The admin listener: health, metrics and what customers need to know of the gateway.
