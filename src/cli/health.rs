//! `health`: asks a running gateway whether it is ready.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{USAGE, fail, small_runtime};

/// Where to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  egress-gateway health --url http://127.0.0.1:9128/readyz")]
pub(super) struct Arguments {
    /// The readiness URL: http, with an IP literal or localhost
    #[arg(long, default_value = "http://127.0.0.1:9128/readyz")]
    url: String,
}

/// How long the gateway may take to answer; its own checks take at most two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of the answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Exit 0 when ready, 1 when not.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Some((address, path)) = parse(&arguments.url) else {
        return fail(
            "--url must be http://ADDRESS:PORT/PATH, with an IP literal or localhost",
            USAGE,
        );
    };
    let answer = small_runtime().and_then(|runtime| {
        runtime.block_on(async {
            tokio::time::timeout(ANSWER_TIMEOUT, ask(address, &path))
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        })
    });
    match answer {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            fail(format!("not ready: {}", body.trim()), 1)
        }
        Err(error) => fail(format!("{address} does not answer: {error}"), 1),
    }
}

fn parse(text: &str) -> Option<(SocketAddr, String)> {
    let url = url::Url::parse(text).ok().filter(|url| url.scheme() == "http")?;
    let ip = match url.host()? {
        url::Host::Ipv4(v4) => IpAddr::V4(v4),
        url::Host::Ipv6(v6) => IpAddr::V6(v6),
        url::Host::Domain("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
        url::Host::Domain(_) => return None,
    };
    Some((SocketAddr::new(ip, url.port_or_known_default()?), url.path().to_owned()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "asks the operator's own gateway, in a process of its own; nothing leaves for a target here"
)]
async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_of_this_machine_or_an_address_are_asked() {
        let (address, path) = parse("http://localhost:9128/readyz").unwrap();
        assert_eq!((address.to_string().as_str(), path.as_str()), ("127.0.0.1:9128", "/readyz"));
        assert!(parse("http://[::1]:9128/readyz").is_some());
        for wrong in ["https://127.0.0.1/readyz", "http://example.com/readyz", "127.0.0.1:9128", ""]
        {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
