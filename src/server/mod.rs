//! The listeners and the connections that clients open.

pub mod head;
