//! The commands. Data goes to standard output, everything else to standard error.

mod admin_api;
mod check;
mod check_remote;
mod check_table;
mod config;
mod connector;
mod demo;
mod explain;
mod health;
mod openapi;
mod out;
mod serve;
mod sign;
mod store;
mod verify;
mod wireguard;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use out::fail;

/// An egress gateway: decides for each connection whether it may leave, and where exactly it goes.
#[derive(Debug, Parser)]
#[command(name = "egress-gateway", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  egress-gateway demo
  egress-gateway serve --config /etc/egress-gateway/gateway.toml
  egress-gateway config check --config gateway.toml
  egress-gateway explain --config gateway.toml api.github.com:443
  egress-gateway check --config gateway.toml acme-jira
  HTTPS_PROXY=http://127.0.0.1:3128 curl -v https://api.github.com/

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration.";

const SERVE_EXAMPLES: &str = "\
Examples:
  egress-gateway serve
  egress-gateway serve --config gateway.toml --config targets.toml
  EGRESS_PROXY__LISTEN=127.0.0.1:8080 egress-gateway serve --config gateway.toml

Exit codes: 0 told to stop, 1 it cannot start, 2 the configuration is not valid.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    ///
    /// Without --config it reads config/gateway.toml where that is present, else it uses built-in
    /// defaults: loopback listeners, state in ./state.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Files),
    /// Show each policy decision as it happens, on loopback, with nothing else installed
    #[command(after_help = "Example:\n  egress-gateway demo")]
    Demo,
    /// Tell the decision for one request, rule by rule; nothing is sent but DNS
    Explain(explain::Arguments),
    /// Check whether a target can be reached, and which control is in the way if not
    ///
    /// Goes the very way that traffic takes, from the egress address: DNS, address policy, TCP, TLS
    /// and one request without credentials; nothing is sent to a webhook receiver.
    ///
    /// Without --config it asks the gateway that runs, over its admin API; the target's state there
    /// is renewed by it. With --config it goes alone.
    Check(check::Arguments),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Work with the database
    #[command(subcommand)]
    Store(store::Command),
    /// Print the header fields of a signed webhook delivery
    Sign(sign::Arguments),
    /// Exit 0 when a webhook delivery verifies, 1 with the reason when not
    Verify(verify::Arguments),
    /// Run the customer's end of a reverse tunnel, or enrol, list and revoke connectors
    Connector(connector::Arguments),
    /// Exit 0 when a running gateway is ready: for container health checks
    Health(health::Arguments),
    #[command(
        about = "Print the admin API's OpenAPI document",
        after_help = "Example:\n  egress-gateway openapi > openapi.json"
    )]
    Openapi,
    /// Make keys for a WireGuard tunnel
    #[command(subcommand)]
    Wireguard(wireguard::Command),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  egress-gateway completions bash > /etc/bash_completion.d/egress-gateway"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Validate everything and print every problem with file, line and key
    #[command(
        after_help = "Example:\n  egress-gateway config check --config gateway.toml --config targets.toml"
    )]
    Check(Files),
}

/// The configuration files of a command.
#[derive(Debug, clap::Args)]
struct Files {
    /// A configuration file; repeatable, later ones override earlier ones
    #[arg(long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
}

impl Files {
    /// The files that were named, else the default ones that are present.
    fn or_default(&self) -> Vec<PathBuf> {
        if self.config.is_empty() { crate::config::default_files() } else { self.config.clone() }
    }
}

/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// Reads the arguments and runs the command.
pub fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(files) => serve::run(&files),
        Command::Demo => demo::run(),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Config(ConfigCommand::Check(files)) => config::check(&files),
        Command::Store(command) => store::run(&command),
        Command::Sign(arguments) => sign::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Connector(arguments) => connector::run(arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Openapi => openapi::run(),
        Command::Wireguard(command) => wireguard::run(&command),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let name = command.get_name().to_owned();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut script);
            out::result(String::from_utf8_lossy(&script).trim_end(), ExitCode::SUCCESS)
        }
    }
}

/// A runtime for a command that does one thing and ends.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
