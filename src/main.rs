//! The `egress-gateway` program: arguments in, exit code out.

fn main() {}
