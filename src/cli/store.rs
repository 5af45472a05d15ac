//! `store rotate-key`: seals stored credentials with the current key.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    process::ExitCode,
};

use super::{Files, USAGE, fail, out, small_runtime};
use crate::{
    config,
    seal::Keys,
    store::{Resealed, Store},
};

/// What to do with the database.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Seal every stored credential anew with store.key
    ///
    /// Former keys are in `store.previous_keys`. A gateway may be running meanwhile, with the same
    /// keys. A run that was interrupted goes on with the next one.
    #[command(
        after_help = "Example:\n  egress-gateway store rotate-key --config /etc/egress-gateway/gateway.toml\n\n\
                      Exit codes: 0 all are sealed with store.key, 1 some are not, 2 wrong usage or configuration."
    )]
    RotateKey(Files),
}

/// Exit 0 when every credential is sealed with the current key, 1 when not.
pub(super) fn run(command: &Command) -> ExitCode {
    let Command::RotateKey(files) = command;
    let settings = match config::load(&files.or_default()) {
        Ok(loaded) => loaded.config.store,
        Err(invalid) => return fail(format!("the configuration is not valid\n{invalid}"), USAGE),
    };
    let Some(key) = &settings.key else {
        return fail("store.key is not set, so nothing is or can be sealed", USAGE);
    };
    let keys = match Keys::new(key, &settings.previous_keys) {
        Ok(keys) => keys,
        Err(error) => return fail(error, USAGE),
    };
    let resealed = small_runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let store = Store::open_existing(settings.url.expose()).await?;
            let resealed = store.reseal(&keys, progress()).await;
            store.close().await;
            Ok(resealed?)
        })
    });
    match resealed {
        Ok(resealed) => tell(&resealed, keys.current.key_id()),
        Err(error) => fail(error, 1),
    }
}

/// Says how far it is, where somebody is looking.
fn progress() -> impl FnMut(u64, u64) {
    let shown = stderr().is_terminal();
    move |seen, total| {
        if shown {
            let end = if seen == total { "\n" } else { "" };
            // That it cannot be shown is no reason to stop.
            let _ignored = write!(stderr(), "\r{seen} of {total}{end}");
        }
    }
}

fn tell(resealed: &Resealed, key_id: &str) -> ExitCode {
    let text = format!("{} credentials sealed anew with key {key_id}", resealed.count);
    let told = out::result(text, ExitCode::SUCCESS);
    for left in &resealed.left {
        let (field, target_id, error) = (left.field.as_str(), &left.target_id, &left.error);
        out::note(format_args!("{field} of target {target_id}: {error}"));
    }
    match resealed.left.len() {
        0 => told,
        left => fail(format!("{left} credentials are left as they were"), 1),
    }
}
