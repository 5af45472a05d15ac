//! The `egress-gateway` program: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    egress_gateway::cli::run()
}
