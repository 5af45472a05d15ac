//! `check`: one connectivity check, step by step, and what each control makes of it.

use std::{io::IsTerminal as _, process::ExitCode, sync::Arc};

use http::HeaderMap;

use super::{Files, USAGE, check_remote, check_table, explain, fail, out, small_runtime};
use crate::{
    check::{Check, State, Step, StepName, walk},
    client::Clients,
    config,
    destination::Asked,
    gateway::relay,
    target::Target,
    view::View,
};

const EXAMPLES: &str = "\
Examples:
  egress-gateway check acme-jira
  egress-gateway check --url http://10.0.0.5:9128 --token-file operator.token acme-jira
  egress-gateway check --config gateway.toml https://jira.acme.example/jira
  egress-gateway check --json acme-jira | jq .next_step

The token needs the role `operate`; without --token-file it is taken from EGRESS_ADMIN_TOKEN.

Exit codes: 0 the target is ready, 1 it is blocked, 2 it cannot be checked.";

/// What to check.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    pub(super) gateway: check_remote::Gateway,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// The id of a target, or a URL that one owns
    #[arg(value_name = "TARGET_OR_URL")]
    pub(super) what: String,
}

/// Exit 0 when the target is ready, 1 when it is blocked, 2 when it cannot be checked.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let checked = if arguments.files.config.is_empty() {
        check_remote::check(arguments)
    } else {
        alone(arguments)
    };
    match checked {
        Ok(check) => show(&check, arguments.json),
        Err(error) => fail(format!("{error:#}"), USAGE),
    }
}

/// Checks with a configuration of its own.
fn alone(arguments: &Arguments) -> anyhow::Result<Check> {
    let loaded = config::load(&arguments.files.config)
        .map_err(|invalid| anyhow::anyhow!("the configuration is not valid\n{invalid}"))?;
    small_runtime()?.block_on(async {
        let view = explain::view(loaded.config, false).await?;
        let target = find(&view, &arguments.what)?;
        Ok(live(&view, &target, arguments.json).await)
    })
}

/// The target of an id, or the one that owns a URL.
fn find(view: &View, what: &str) -> anyhow::Result<Arc<Target>> {
    if let Some(target) = view.targets.get(what) {
        return Ok(Arc::clone(target));
    }
    anyhow::ensure!(what.contains("://"), "no target has the id {what}");
    let asked = Asked::parse(what, &HeaderMap::new())
        .map_err(|refusal| anyhow::anyhow!("{}", refusal.detail))?;
    let owner = relay::owner_of(view, &Clients::unnamed(), &asked);
    owner.cloned().map_err(|refusal| anyhow::anyhow!("{}", refusal.detail))
}

/// Runs the check and shows each step when it ends.
async fn live(view: &View, target: &Arc<Target>, json: bool) -> Check {
    let progress = Progress::new(json);
    progress.under_way(StepName::ALL.first().copied());
    let id = ulid::Ulid::new().to_string().into();
    let check = walk(view, target, id, &mut |step| progress.ended(step)).await;
    if !json {
        out::progress("\n");
    }
    check
}

/// Prints a check and gives the exit code for it.
fn show(check: &Check, json: bool) -> ExitCode {
    let text = if json {
        serde_json::to_string_pretty(check).unwrap_or_default()
    } else {
        check_table::render(check)
    };
    out::result(text.trim_end(), ExitCode::from(u8::from(check.state != State::Ready)))
}

/// Steps as they end: on a terminal with the one under way below, else a plain line each.
struct Progress {
    silent: bool,
    terminal: bool,
}

impl Progress {
    fn new(silent: bool) -> Self {
        Self { silent, terminal: std::io::stdout().is_terminal() }
    }

    fn ended(&self, step: &Step) {
        if self.silent {
            return;
        }
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        out::progress(format_args!("{clear}{}\n", check_table::line(step)));
        let after = StepName::ALL.iter().skip_while(|name| **name != step.name).nth(1);
        self.under_way(after.copied());
    }

    fn under_way(&self, step: Option<StepName>) {
        if let (false, true, Some(step)) = (self.silent, self.terminal, step) {
            out::progress(format_args!("…        {}", step.as_str()));
        }
    }
}
