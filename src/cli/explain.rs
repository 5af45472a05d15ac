//! `explain`: the decision for one request, rule by rule.

use std::{fmt::Write as _, process::ExitCode, sync::Arc};

use http::Method;

use super::{Files, USAGE, fail, out, small_runtime};
use crate::{
    config,
    explain::{Explanation, Question, What, explain},
    sightings::Sightings,
    store::Store,
    target::TargetId,
    telemetry::metrics::Metrics,
    view::{Shared, View},
};

const EXAMPLES: &str = "\
Examples:
  egress-gateway explain api.github.com:443
  egress-gateway explain --client webriskops-app https://jira.acme.example/jira/rest/api/2/issue/A-1
  egress-gateway explain --method POST /targets/acme-hook
  egress-gateway explain --offline --json jira.acme.example:443";

/// What to explain.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// The client that asks; without it, every client's rights are assumed
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// The request's method; all but CONNECT are relayed, so that the path counts too. Default:
    /// CONNECT for HOST:PORT, GET for a URL
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The target that the client names in X-WebRiskOps-Target
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// Send nothing, not even DNS
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// HOST:PORT, an http or https URL, or /targets/ID/PATH; with --method CONNECT the https URL
    /// that a client would ask for through `HTTPS_PROXY`
    #[arg(value_name = "URL_OR_HOST:PORT")]
    what: String,
}

/// Exit 0 when the request would be allowed, 1 when it would be refused, 2 when it cannot be told.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let what = match what(&arguments) {
        Ok(what) => what,
        Err(message) => return fail(message, USAGE),
    };
    let loaded = match config::load(&arguments.files.or_default()) {
        Ok(loaded) => loaded,
        Err(invalid) => return fail(format!("the configuration is not valid\n{invalid}"), USAGE),
    };
    let question =
        Question { client: arguments.client, what: Ok(what), offline: arguments.offline };
    let explanation = small_runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let view = view(loaded.config, question.offline).await?;
            Ok(explain(&view, None, question).await)
        })
    });
    match explanation {
        Ok(explanation) => {
            let text = if arguments.json {
                serde_json::to_string_pretty(&explanation).unwrap_or_default()
            } else {
                in_words(&explanation)
            };
            out::result(text, ExitCode::from(u8::from(explanation.decision == "refused")))
        }
        Err(error) => fail(format!("{error:#}"), USAGE),
    }
}

fn what(arguments: &Arguments) -> Result<What, String> {
    let method = match &arguments.method {
        Some(method) => method.parse().map_err(|_| "--method is not a method")?,
        None if arguments.what.contains("://") || arguments.what.starts_with('/') => Method::GET,
        None => Method::CONNECT,
    };
    let target = match arguments.target.as_deref().map(TargetId::parse) {
        Some(None) => return Err("--target is not a target id".to_owned()),
        Some(id) => id,
        None => None,
    };
    What::parse(&method, &arguments.what, target.as_ref()).map_err(|refusal| refusal.detail)
}

/// A view on the configuration, with what the gateway's store remembers where there is one; what is
/// seen with it is not written down.
pub(super) async fn view(config: config::Config, offline: bool) -> anyhow::Result<View> {
    let url = config.store.url.expose();
    // Explaining makes no state: where the gateway never ran, nothing is remembered.
    let store = Store::open(if Store::exists(url) { url } else { "sqlite::memory:" }).await?;
    let (sightings, _writer) = Sightings::new(store.sightings().await?, store);
    let shared = Shared {
        sightings: Arc::new(sightings),
        metrics: Arc::new(Metrics::new()?),
        needs_egress: !offline,
        connectors: None,
    };
    let listeners = config.proxy.listen.iter().chain(&config.admin.listen).copied().collect();
    Ok(View::new(config, listeners, &shared, None)?)
}

fn in_words(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a text never fails.
    for rule in &explanation.rules {
        let detail = rule.detail.as_deref().map(|detail| format!("  {detail}")).unwrap_or_default();
        let _ = writeln!(text, "{:<10} {}{detail}", rule.verdict, rule.name);
    }
    for address in &explanation.addresses {
        let _ = writeln!(
            text,
            "{:<10} {:<24} {:<10} {}",
            address.verdict, address.address, address.class, address.source
        );
    }
    if let (Some(code), Some(cause)) = (explanation.code, explanation.cause) {
        let next_step = explanation.next_step.as_deref().unwrap_or_default();
        let _ = write!(text, "\nrefused: {code} ({cause})\nnext step: {next_step}");
    } else {
        let target = explanation.target_id.as_deref().unwrap_or_default();
        let route = explanation.route.as_deref().unwrap_or_default();
        let pinned =
            explanation.pinned.as_deref().unwrap_or("an address that DNS was not asked for");
        let _ = write!(text, "\nallowed: target {target}, {route}, to {pinned}");
    }
    text
}
