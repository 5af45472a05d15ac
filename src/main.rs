//! The `egress-gateway` program: arguments in, exit code out.

/// Gives memory back when tunnels close: `docs/performance.md`, "The runtime".
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    egress_gateway::cli::run()
}
