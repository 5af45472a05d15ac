//! Configuration: files and environment, read whole or not at all.
