//! The head of an HTTP/1 request, read in exactly one way or refused.
