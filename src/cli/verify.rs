//! `verify`: whether a delivery verifies, for receivers' own tests.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    USAGE, fail, out,
    sign::{body, secret, unix_seconds},
};
use crate::{
    fields::parse_duration,
    webhook::{
        signature::Key,
        verify::{Verified, VerifyError, format, verify},
    },
};

const EXAMPLES: &str = "\
Examples:
  egress-gateway verify --secret-file secret.txt \\
    --header 'X-WebRiskOps-Timestamp: 1790000000' --header 'X-WebRiskOps-Nonce: n-1' \\
    --header 'X-WebRiskOps-Signature: sha256=…' body.json
  egress-gateway sign --secret-file secret.txt --timestamp 1790000000 body.json > fields
  egress-gateway verify --secret-file secret.txt --tolerance 3650d \\
    --header \"$(grep Timestamp fields)\" --header \"$(grep Nonce fields)\" \\
    --header \"$(grep Signature fields)\" body.json

Header fields that have nothing to do with signatures may be there. The format is told from them.
Exit codes: 0 verified, 1 not verified, 2 wrong usage.";

/// A delivery, and what to verify it with.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A file that holds a signing secret; repeatable, any of them may match
    #[arg(long, value_name = "FILE", required = true)]
    secret_file: Vec<PathBuf>,
    /// A header field of the delivery; repeatable
    #[arg(long, value_name = "NAME: VALUE", required = true)]
    header: Vec<String>,
    /// How far the timestamp may be off, either way
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    tolerance: Duration,
    /// The body; standard input when it is absent or `-`
    #[arg(value_name = "FILE")]
    body: Option<PathBuf>,
}

/// Exit 0 when it verifies, 1 with the reason when not, 2 when that cannot be told.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match judge(arguments) {
        Ok(Ok(verified)) => out::result(in_words(&verified), ExitCode::SUCCESS),
        Ok(Err(error)) => fail(format!("not verified: {error} ({})", error.cause()), 1),
        Err(error) => fail(format!("{error:#}"), USAGE),
    }
}

fn judge(arguments: &Arguments) -> anyhow::Result<Result<Verified, VerifyError>> {
    let mut headers = HeaderMap::new();
    for line in &arguments.header {
        let (name, value) = field(line).context("--header has the form 'Name: value'")?;
        ensure!(headers.try_append(name, value).is_ok(), "too many --header");
    }
    let mut secrets = Vec::new();
    for file in &arguments.secret_file {
        let secret = secret(file)?;
        // A secret that no sender could use is the caller's mistake, not the delivery's.
        if let Ok(format) = format(&headers) {
            Key::new(&secret, format).with_context(|| file.display().to_string())?;
        }
        secrets.push(secret);
    }
    let body = body(arguments.body.as_deref())?;
    Ok(verify(&headers, &body, &secrets, arguments.tolerance, unix_seconds()?))
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let value = value.trim_matches([' ', '\t', '\r', '\n']);
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
}

fn in_words(verified: &Verified) -> String {
    let rows = [
        ("timestamp", Some(verified.timestamp.to_string())),
        ("nonce", verified.nonce.clone()),
        ("idempotency key", verified.idempotency_key.clone()),
        ("event", verified.event.clone()),
        ("schema", verified.schema.clone()),
    ];
    let known = rows.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.fold("verified".to_owned(), |text, (name, value)| format!("{text}\n{name:<16} {value}"))
}
