//! `wireguard`: keys for a tunnel. The private one goes into a file, and never to a terminal.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use zeroize::Zeroizing;

use super::{fail, out};
use crate::tunnel::wireguard::PrivateKey;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a new private key into a file, and print the public key that belongs to it
    ///
    /// The public key is what the customer is given; the file is what `private_key` of the tunnel
    /// refers to. The file is readable by its owner alone. One that is there already is left as
    /// it is, and the command fails.
    #[command(after_help = "\
Example:
  egress-gateway wireguard keygen --out /etc/egress-gateway/acme-wireguard.key
  [tunnels.acme]
  private_key = { file = \"/etc/egress-gateway/acme-wireguard.key\" }")]
    Keygen {
        /// Where the private key goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public key that belongs to a private key
    #[command(after_help = "\
Example:
  egress-gateway wireguard pubkey --private-key-file /etc/egress-gateway/acme-wireguard.key")]
    Pubkey {
        /// The file that holds the private key, in base64
        #[arg(long, value_name = "FILE")]
        private_key_file: PathBuf,
    },
}

/// Largest file that is read for a key: one has 44 characters.
const KEY_BYTES_MAX: u64 = 1024;

/// Exit 0 when it is done, 1 when it cannot be.
pub(super) fn run(command: &Command) -> ExitCode {
    let public = match command {
        Command::Keygen { out } => keygen(out),
        Command::Pubkey { private_key_file } => read(private_key_file),
    };
    match public {
        Ok(public) => out::result(public, ExitCode::SUCCESS),
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

/// Writes a new key and gives its public key.
fn keygen(out: &Path) -> anyhow::Result<String> {
    let key = PrivateKey::generate().ok().context("there is no source of random bits")?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true) // never over a key that is in use
        .mode(0o600)
        .open(out)
        .with_context(|| out.display().to_string())?;
    let text = Zeroizing::new(format!("{}\n", *key.to_base64()));
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| out.display().to_string())?;
    Ok(key.public_base64())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(KEY_BYTES_MAX).read_to_end(&mut text))
        .with_context(|| path.display().to_string())?;
    let Some(key) = PrivateKey::from_base64(&text) else {
        bail!("{}: a WireGuard key is 32 bytes in base64", path.display());
    };
    Ok(key.public_base64())
}
