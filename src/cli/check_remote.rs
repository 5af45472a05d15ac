//! `check` without a configuration: has the running gateway check, over its admin API.

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    admin_api::{self, AskError},
    check::Arguments,
    check_table, out, small_runtime,
};
use crate::{check::Check, target::TargetId};

/// Which gateway, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Gateway {
    /// The running gateway's admin listener: http, with an IP literal or localhost
    #[arg(long, default_value = "http://127.0.0.1:9128", conflicts_with = "config")]
    url: String,
    /// A file with an admin token of the role `operate`
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    token_file: Option<PathBuf>,
}

/// The environment's admin token.
const TOKEN_VARIABLE: &str = "EGRESS_ADMIN_TOKEN";

/// How long the gateway may take to find a target: it may ask DNS.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a check may take: its own limits are the gateway's, and shorter.
const CHECK_TIMEOUT: Duration = Duration::from_mins(10);

/// Has the running gateway check the target.
pub(super) fn check(arguments: &Arguments) -> anyhow::Result<Check> {
    let url = &arguments.gateway.url;
    let (address, _) = admin_api::parse(url)
        .filter(|(_, path)| path == "/")
        .context("--url must be http://ADDRESS:PORT, with an IP literal or localhost")?;
    let admin = Admin { address, token: token(arguments.gateway.token_file.as_ref())? };
    small_runtime()?.block_on(async {
        let id = admin.find(&arguments.what).await?;
        if !arguments.json && std::io::stderr().is_terminal() {
            out::note(format_args!("the gateway at {address} checks {id} …"));
        }
        let check = admin.check(&id).await?;
        if !arguments.json {
            for step in &check.steps {
                out::progress(format_args!("{}\n", check_table::line(step)));
            }
            out::progress("\n");
        }
        Ok(check)
    })
}

#[expect(clippy::disallowed_methods, reason = "the token's name is no key of the configuration")]
fn token(file: Option<&PathBuf>) -> anyhow::Result<Option<Zeroizing<String>>> {
    let text = match file {
        Some(file) => {
            let cannot = || format!("--token-file {} cannot be read", file.display());
            Some(std::fs::read_to_string(file).with_context(cannot)?)
        }
        None => std::env::var(TOKEN_VARIABLE).ok(),
    };
    Ok(text.map(Zeroizing::new))
}

/// A gateway's admin API.
struct Admin {
    address: SocketAddr,
    token: Option<Zeroizing<String>>,
}

/// As much of an explanation as is asked for.
#[derive(Deserialize)]
struct Explained {
    target_id: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    detail: Option<String>,
}

/// As much of a problem document as is shown.
#[derive(Default, Deserialize)]
struct Problem {
    code: String,
    detail: String,
}

impl Admin {
    /// The target of an id, or the one that owns a URL.
    async fn find(&self, what: &str) -> anyhow::Result<TargetId> {
        if let Some(id) = TargetId::parse(what) {
            return Ok(id);
        }
        ensure!(what.contains("://"), "{what} is neither the id of a target nor a URL");
        let body = serde_json::json!({ "url": what }).to_string();
        let answer = self.ask(Method::POST, "/v1/explain", body, FIND_TIMEOUT).await?;
        let explained: Explained = serde_json::from_slice(&answer).context("an odd explanation")?;
        let why = explained.rules.into_iter().find_map(|rule| rule.detail);
        let id = explained.target_id.as_deref().and_then(TargetId::parse);
        id.with_context(|| why.unwrap_or_else(|| "no target owns it".to_owned()))
    }

    async fn check(&self, id: &TargetId) -> anyhow::Result<Check> {
        let path = format!("/v1/targets/{id}/checks");
        let answer = self.ask(Method::POST, &path, String::new(), CHECK_TIMEOUT).await?;
        serde_json::from_slice(&answer).context("the gateway is of another version: an odd check")
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
        limit: Duration,
    ) -> anyhow::Result<Bytes> {
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            let field = Zeroizing::new(format!("Bearer {}", token.trim()));
            let mut value = HeaderValue::from_str(&field).context("the token is none")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::from(body))?;
        let (status, body) = match admin_api::ask(self.address, request, limit).await {
            Ok(answer) => answer,
            Err(error @ AskError::Connect(..)) => bail!(
                "{error}\nname the admin listener of a running gateway with --url, or go alone with --config"
            ),
            Err(error) => return Err(error.into()),
        };
        if status == StatusCode::OK {
            return Ok(body);
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let Problem { code, detail } = problem;
        if status == StatusCode::UNAUTHORIZED {
            bail!("{code}: give a token with --token-file or in {TOKEN_VARIABLE}: {detail}");
        }
        bail!("{} answers {status}: {code}: {detail}", self.address);
    }
}
