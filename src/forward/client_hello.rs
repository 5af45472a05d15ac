//! The server name in the first bytes of a TLS connection.
