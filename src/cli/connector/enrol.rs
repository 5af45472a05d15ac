//! `connector enrol`: a key of this machine's own, enrolled by a one-time token.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use zeroize::Zeroizing;

use super::super::{USAGE, fail, out, small_runtime};
use crate::connector::{
    client::{allow::Allowlist, enrol::enrol, settings::new_file},
    keys::Key,
    token::{TOKEN_BYTES_MAX, Token},
};

const EXAMPLES: &str = "\
Example:
  egress-gateway connector enrol --token-file acme.token --out connector.toml --allow 10.20.0.0/16:443

The key stays on this machine, in a file beside the configuration; the gateway gets its public half.";

/// With what, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A file that holds the token; `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The configuration to write; the key goes beside it, with the ending .key
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// An address or network, with a port, that the gateway may have opened; repeatable
    #[arg(long, value_name = "CIDR:PORT")]
    allow: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let token = match read_token(&arguments.token_file) {
        Ok(token) => token,
        Err(error) => return fail(format!("{error:#}"), USAGE),
    };
    if let Err(error) = Allowlist::parse(arguments.allow.iter().map(String::as_str)) {
        return fail(format!("--allow: {error}"), USAGE);
    }
    match write_and_enrol(arguments, &token) {
        Ok(name) => {
            let file = arguments.out.display();
            out::note(format_args!("enrolled as {name}; configuration in {file}"));
            if arguments.allow.is_empty() {
                out::note("list in allow what the gateway may have opened, then run:");
            }
            let run = format!("egress-gateway connector --config {file}");
            out::result(run, ExitCode::SUCCESS)
        }
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

fn read_token(path: &Path) -> anyhow::Result<Token> {
    let shown = path.display();
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX));
    let limit = u64::try_from(TOKEN_BYTES_MAX)?;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.with_context(|| format!("--token-file {shown}"))?;
    Token::parse(&text).with_context(|| format!("--token-file {shown}"))
}

/// The files first: a token that was shown is used up.
fn write_and_enrol(arguments: &Arguments, token: &Token) -> anyhow::Result<String> {
    let out = &arguments.out;
    let key_file = out.with_extension("key");
    ensure!(key_file != *out, "{}: give it another ending than .key", out.display());
    let key_name = key_file.file_name().and_then(|name| name.to_str());
    let key_name = key_name.with_context(|| format!("{}: not a file name", out.display()))?;
    let key = Key::create(&key_file).with_context(|| format!("{}", key_file.display()))?;
    let written = (|| {
        let text = new_file(&token.name, &token.gateways, token.pin, key_name, &arguments.allow);
        let mut file = OpenOptions::new().write(true).create_new(true).open(out)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })();
    let outcome = match written {
        Err(error) => Err(anyhow::Error::new(error).context(format!("{}", out.display()))),
        Ok(()) => small_runtime()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| Ok(runtime.block_on(enrol(token, &key))?))
            .inspect_err(|_| {
                // Of no use without the enrolment, and in the way of the next try.
                let _best_effort = std::fs::remove_file(out);
            }),
    };
    if outcome.is_err() {
        let _best_effort = std::fs::remove_file(&key_file);
    }
    outcome
}
