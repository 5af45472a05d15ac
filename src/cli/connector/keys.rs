//! `connector token`, `list`, `revoke`: on the gateway, with its configuration and its store.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};

use super::super::{Files, USAGE, fail, out, small_runtime};
use crate::{
    config::{self, Config, Tunnel},
    connector::{
        keys::{Key, Pin},
        token::Token,
    },
    fields::parse_duration,
    store::{Store, connectors::Connector},
};

/// Longest time for which a token may be good.
const TTL_MAX: Duration = Duration::from_hours(30 * 24);

/// For whom, and for how long.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  egress-gateway connector token acme --config gateway.toml --ttl 24h > acme.token"
)]
pub(super) struct TokenArguments {
    /// The connector's name, as tunnels have it: url = "connector:NAME"
    name: String,
    /// For how long the token is good, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    files: Files,
}

/// The gateway's configuration.
#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: Files,
}

/// Whose keys.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  egress-gateway connector revoke acme --config gateway.toml")]
pub(super) struct RevokeArguments {
    /// The connector's name
    name: String,
    /// One key of it, as `connector list` shows it; default: all of them, and unused tokens
    #[arg(long, value_name = "PIN")]
    spki: Option<String>,
    #[command(flatten)]
    files: Files,
}

pub(super) fn token(arguments: &TokenArguments) -> ExitCode {
    let config = match load(&arguments.files) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if arguments.ttl > TTL_MAX {
        return fail("--ttl: at most 30d", USAGE);
    }
    let token = match new_token(&config, arguments) {
        Ok(token) => token,
        Err(error) => return fail(format!("{error:#}"), USAGE),
    };
    let saved = with_store(&config, async |store| {
        let now = jiff::Timestamp::now().as_second();
        let ttl = i64::try_from(arguments.ttl.as_secs()).unwrap_or(i64::MAX);
        let expires_at = now.saturating_add(ttl);
        Ok(store.add_connector_token(&token.hash(), &token.name, expires_at, now).await?)
    });
    match saved {
        Ok(()) => {
            let ttl = arguments.ttl.as_secs();
            out::note(format_args!(
                "good for one connector, for {ttl} seconds; hand it over as a secret"
            ));
            out::result(&*token.to_line(), ExitCode::SUCCESS)
        }
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

fn new_token(config: &Config, arguments: &TokenArguments) -> anyhow::Result<Token> {
    let name = &arguments.name;
    let named = |tunnel: &Tunnel| matches!(tunnel, Tunnel::Connector(of) if of == name);
    ensure!(
        config.tunnels.values().any(named),
        "no tunnel has url = \"connector:{name}\"; add one first"
    );
    let settings = &config.connectors;
    ensure!(
        !settings.addresses.is_empty(),
        "set connectors.listen, and connectors.addresses to what customers dial"
    );
    let key = Key::load_or_create(&settings.key_file);
    let key = key.with_context(|| format!("{}", settings.key_file.display()))?;
    Ok(Token::new(settings.addresses.clone(), key.pin(), name.clone())?)
}

pub(super) fn list(arguments: &ListArguments) -> ExitCode {
    let config = match load(&arguments.files) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match with_store(&config, async |store| Ok(store.connectors().await?)) {
        Ok(connectors) if arguments.json => {
            let items: Vec<_> = connectors.iter().map(json).collect();
            out::result(serde_json::json!({ "items": items }), ExitCode::SUCCESS)
        }
        Ok(connectors) if connectors.is_empty() => ExitCode::SUCCESS,
        Ok(connectors) => {
            let lines = connectors.iter().map(|one| {
                let state = match (one.revoked_at, one.last_seen) {
                    (Some(at), _) => format!("revoked {}", time(at)),
                    (None, Some(at)) => format!("last seen {}", time(at)),
                    (None, None) => "never seen".to_owned(),
                };
                let (name, spki, enrolled) = (&one.name, &one.spki, time(one.enrolled_at));
                format!("{name}  {spki}  enrolled {enrolled}  {state}")
            });
            out::result(lines.collect::<Vec<_>>().join("\n"), ExitCode::SUCCESS)
        }
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

fn json(one: &Connector) -> serde_json::Value {
    serde_json::json!({
        "name": one.name,
        "spki": one.spki,
        "enrolled_at": time(one.enrolled_at),
        "revoked_at": one.revoked_at.map(time),
        "last_seen": one.last_seen.map(time),
    })
}

/// RFC 3339.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

pub(super) fn revoke(arguments: &RevokeArguments) -> ExitCode {
    let config = match load(&arguments.files) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Some(Err(fault)) = arguments.spki.as_deref().map(Pin::parse) {
        return fail(format!("--spki: {fault}"), USAGE);
    }
    let revoked = with_store(&config, async |store| {
        let now = jiff::Timestamp::now().as_second();
        let spki = arguments.spki.as_deref();
        Ok(store.revoke_connectors(&arguments.name, spki, now).await?)
    });
    match revoked {
        Ok(0) => fail(format!("there is no key of {} to revoke", arguments.name), 1),
        Ok(count) => out::result(format_args!("revoked {count}"), ExitCode::SUCCESS),
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

fn load(files: &Files) -> Result<Config, ExitCode> {
    let loaded = config::load(&files.or_default());
    let loaded = loaded
        .map_err(|invalid| fail(format!("the configuration is not valid\n{invalid}"), USAGE))?;
    Ok(loaded.config)
}

fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    small_runtime()?.block_on(async {
        let store = Store::open(config.store.url.expose()).await.context("store.url")?;
        let done = work(&store).await;
        store.close().await;
        done
    })
}
