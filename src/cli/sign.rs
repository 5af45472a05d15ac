//! `sign`: the header fields of a signed webhook delivery, for receivers' own tests.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rustls::crypto::aws_lc_rs;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{USAGE, fail, out};
use crate::{
    secret::Secret,
    target::{Signing, SigningFormat},
    webhook::{
        IDEMPOTENCY_KEY, NONCE, TIMESTAMP,
        envelope::{Envelope, Outgoing, named_timestamp},
        signature::{KEY_BYTES_MIN, Key, Keys, sign},
        written,
    },
};

const EXAMPLES: &str = "\
Examples:
  egress-gateway sign --secret-file secret.txt body.json
  printf '{\"event\":\"ticket.created\"}' | egress-gateway sign --secret-file secret.txt
  egress-gateway sign --secret-file secret.txt --timestamp 1790000000 --nonce n-1 --json body.json
  egress-gateway sign --secret-file new.txt --secret-file old.txt body.json   # during a rotation

With curl, which reads header fields from a file:
  egress-gateway sign --secret-file secret.txt body.json > fields
  curl -H @fields --data-binary @body.json https://receiver.example/hook

Without --timestamp, --nonce and --id they are taken from the JSON body as the gateway takes them,
else they are now, random, and derived from the body.";

/// What to sign, and with what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A file that holds the signing secret; a second one is the previous secret of a rotation
    #[arg(long, value_name = "FILE", required = true)]
    secret_file: Vec<PathBuf>,
    /// When the delivery is made, in Unix seconds
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// 1 to 128 of A-Z a-z 0-9 _ -
    #[arg(long, value_name = "NONCE", allow_hyphen_values = true)]
    nonce: Option<String>,
    /// The idempotency key
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    id: Option<String>,
    /// How the signature is written
    #[arg(long, value_enum, default_value_t = Format::Webriskops)]
    format: Format,
    /// Print one JSON object, from names to values
    #[arg(long)]
    json: bool,
    /// The body; standard input when it is absent or `-`
    #[arg(value_name = "FILE")]
    body: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// X-WebRiskOps-Signature
    Webriskops,
    /// webhook-signature, by the Standard Webhooks specification
    StandardWebhooks,
}

impl From<Format> for SigningFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Webriskops => Self::WebRiskOps,
            Format::StandardWebhooks => Self::StandardWebhooks,
        }
    }
}

/// Largest secret file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Largest body, in bytes: far above what the gateway signs by default.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Exit 0 when it is signed, 2 when it cannot be.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match fields(arguments) {
        Ok(fields) => out::result(in_words(&fields, arguments.json), ExitCode::SUCCESS),
        Err(error) => fail(format!("{error:#}"), USAGE),
    }
}

fn fields(arguments: &Arguments) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let format = SigningFormat::from(arguments.format);
    ensure!(arguments.secret_file.len() <= 2, "--secret-file is given at most twice");
    let mut secrets = Vec::new();
    for file in &arguments.secret_file {
        let secret = secret(file)?;
        Key::new(&secret, format).with_context(|| file.display().to_string())?;
        secrets.push(secret);
    }
    let mut secrets = secrets.into_iter();
    let signing = Signing { secret: secrets.next(), previous: secrets.next(), format };
    let keys = Keys::new(&signing)?.context("there is no secret")?;

    let mut headers = HeaderMap::new();
    let given = [
        (&TIMESTAMP, "--timestamp", &arguments.timestamp),
        (&NONCE, "--nonce", &arguments.nonce),
        (&IDEMPOTENCY_KEY, "--id", &arguments.id),
    ];
    for (name, option, value) in given {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).ok();
            let value = value.with_context(|| format!("{option} has to be visible ASCII"))?;
            headers.insert(name, value);
        }
    }
    let body = body(arguments.body.as_deref())?;
    let mut fresh = [0; 16];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut fresh).ok().context("there is no source of random bits")?;
    // A time that is named is meant, however far off: receivers' tests need old deliveries.
    let named = || arguments.timestamp.as_ref().and_then(|text| text.parse().ok());
    let now = named().or_else(|| named_timestamp(&body));
    let outgoing = Outgoing {
        target: "",
        method: &Method::POST,
        url: "",
        headers: &headers,
        body: &body,
        payload_hash: Sha256::digest(&body).into(),
        format,
    };
    let envelope = Envelope::read(&outgoing, now.map_or_else(unix_seconds, Ok)?, fresh)?;
    Ok(sign(&envelope, &body, &keys))
}

fn in_words(fields: &[(HeaderName, HeaderValue)], json: bool) -> String {
    let fields = fields.iter().map(|(name, value)| {
        (written(name).to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    if json {
        let object: serde_json::Map<_, _> =
            fields.map(|(name, value)| (name, serde_json::Value::from(value))).collect();
        serde_json::to_string_pretty(&object).unwrap_or_default()
    } else {
        let lines: Vec<_> = fields.map(|(name, value)| format!("{name}: {value}")).collect();
        lines.join("\n")
    }
}

/// The secret in a file, without the line end behind it.
///
/// # Errors
/// What is wrong, with the path, never with any of the content.
pub(super) fn secret(path: &Path) -> anyhow::Result<Secret> {
    let mut content = File::open(path)
        .and_then(|file| read_bounded(file, SECRET_BYTES_MAX))
        .with_context(|| path.display().to_string())?;
    if content.last() == Some(&b'\n') {
        content.pop();
        if content.last() == Some(&b'\r') {
            content.pop();
        }
    }
    if content.len() < KEY_BYTES_MIN {
        bail!("{}: a signing secret has at least {KEY_BYTES_MIN} bytes", path.display());
    }
    Ok(Secret::new(std::mem::take(&mut *content)))
}

/// A body from a file, or from standard input.
///
/// # Errors
/// What is wrong, with the path.
pub(super) fn body(path: Option<&Path>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    match path.filter(|path| path.as_os_str() != "-") {
        Some(path) => File::open(path)
            .and_then(|file| read_bounded(file, BODY_BYTES_MAX))
            .with_context(|| path.display().to_string()),
        None => read_bounded(io::stdin().lock(), BODY_BYTES_MAX).context("standard input"),
    }
}

fn read_bounded(from: impl Read, bytes_max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= bytes_max) {
        Ok(content)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {bytes_max} bytes")))
    }
}

/// The time, in Unix seconds.
///
/// # Errors
/// When the clock stands before 1970.
pub(super) fn unix_seconds() -> anyhow::Result<u64> {
    u64::try_from(jiff::Timestamp::now().as_second()).context("the clock stands before 1970")
}
