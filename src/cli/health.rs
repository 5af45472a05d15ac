//! `health`: asks a running gateway whether it is ready.

use std::{process::ExitCode, time::Duration};

use http::{Request, StatusCode};
use http_body_util::Full;

use super::{USAGE, admin_api, fail, out, small_runtime};

/// Where to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  egress-gateway health --url http://127.0.0.1:9128/readyz")]
pub(super) struct Arguments {
    /// The readiness URL: http, with an IP literal or localhost; without a path it is /readyz
    #[arg(long, default_value = "http://127.0.0.1:9128/readyz")]
    url: String,
}

/// How long the gateway may take to answer; its own checks take at most two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Exit 0 when ready, 1 when not.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Some((address, path)) = admin_api::parse(&arguments.url) else {
        return fail(
            "--url must be http://ADDRESS:PORT or http://ADDRESS:PORT/PATH, with an IP literal or localhost",
            USAGE,
        );
    };
    // `/` is the console, which answers whether or not the gateway is ready.
    let path = if path == "/" { "/readyz".to_owned() } else { path };
    let answer = small_runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        let request = Request::get(path).body(Full::default())?;
        Ok(runtime.block_on(admin_api::ask(address, request, ANSWER_TIMEOUT))?)
    });
    match answer {
        Ok((StatusCode::OK, _)) => out::result("ready", ExitCode::SUCCESS),
        Ok((_, body)) => fail(format!("not ready: {}", String::from_utf8_lossy(&body).trim()), 1),
        Err(error) => fail(error, 1),
    }
}
