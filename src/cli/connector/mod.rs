//! `connector`: the customer's end of a reverse tunnel, and what an operator needs for it.

mod enrol;
mod keys;
mod run;

use std::{path::PathBuf, process::ExitCode};

use super::{USAGE, fail};

const EXAMPLES: &str = "\
Examples:
  egress-gateway connector token acme --config gateway.toml > acme.token    # on the gateway
  egress-gateway connector enrol --token-file acme.token --out connector.toml --allow 10.20.0.0/16:443
  egress-gateway connector --config connector.toml                          # in the customer's network
  egress-gateway connector list --config gateway.toml
  egress-gateway connector revoke acme --config gateway.toml";

/// What to do; without a subcommand, to run.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The connector's own configuration, as `connector enrol` writes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// In the customer's network: make a key, have it enrolled, and write the configuration
    Enrol(enrol::Arguments),
    /// On the gateway: print a token that enrols one connector, once
    Token(keys::TokenArguments),
    /// On the gateway: list the keys that are enrolled
    List(keys::ListArguments),
    /// On the gateway: revoke a connector's keys; what is connected is cut within a second
    Revoke(keys::RevokeArguments),
}

/// Exit 0 when done or told to stop, 1 when it failed, 2 for wrong usage or configuration.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    match (arguments.command, arguments.config) {
        (Some(Command::Enrol(arguments)), _) => enrol::run(&arguments),
        (Some(Command::Token(arguments)), _) => keys::token(&arguments),
        (Some(Command::List(arguments)), _) => keys::list(&arguments),
        (Some(Command::Revoke(arguments)), _) => keys::revoke(&arguments),
        (None, Some(file)) => run::run(&file),
        (None, None) => fail("connector needs --config FILE, or a subcommand; see --help", USAGE),
    }
}
