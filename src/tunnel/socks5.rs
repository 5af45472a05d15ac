//! SOCKS5 towards a hop (RFC 1928), with user name and password (RFC 1929), by address only.
//!
//! Every message is read to its last byte and no further: what follows the last one is the
//! target's.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use zeroize::Zeroizing;

use super::{
    TunnelError,
    wire::{lost, nothing_yet, read, send},
};
use crate::secret::Secret;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
/// Of the sub-negotiation of RFC 1929.
const AUTHENTICATION_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Agrees on a method, and shows the credentials where the hop wants them.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut S,
    credentials: Option<&(String, Secret)>,
) -> Result<(), TunnelError> {
    nothing_yet(link).await?;
    match credentials {
        None => send(link, &[VERSION, 1, NO_AUTHENTICATION]).await?,
        Some(_) => send(link, &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD]).await?,
    }
    let [version, method] = read(link).await?;
    if version != VERSION {
        return Err(garbage("its answer is not SOCKS5"));
    }
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => Ok(()),
        (USER_AND_PASSWORD, Some((user, password))) => log_in(link, user, password).await,
        (NONE_ACCEPTABLE, None) => {
            Err(TunnelError::Auth("it wants credentials, and none are configured".into()))
        }
        (NONE_ACCEPTABLE, Some(_)) => {
            Err(TunnelError::Auth("it takes neither a user name and password nor none".into()))
        }
        (_, _) => Err(garbage("it chooses a method that was not offered")),
    }
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut S,
    user: &str,
    password: &Secret,
) -> Result<(), TunnelError> {
    // Longer ones are a problem of the configuration, which says so.
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let mut message = Zeroizing::new(Vec::with_capacity(513));
    message.extend_from_slice(&[AUTHENTICATION_VERSION, length(user.as_bytes())]);
    message.extend_from_slice(user.as_bytes());
    message.push(length(password.expose()));
    message.extend_from_slice(password.expose());
    send(link, &message).await?;
    match read(link).await? {
        [AUTHENTICATION_VERSION, 0] => Ok(()),
        [AUTHENTICATION_VERSION, _] => {
            Err(TunnelError::Auth("it refuses the user name or password".into()))
        }
        [_, _] => Err(garbage("its answer to the user name and password is not RFC 1929")),
    }
}

/// Asks for the address. The stream begins right behind the answer.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut S,
    to: SocketAddr,
) -> Result<(), TunnelError> {
    nothing_yet(link).await?;
    let mut request = vec![VERSION, CONNECT, 0];
    match to.ip() {
        IpAddr::V4(ip) => {
            request.push(IPV4);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(IPV6);
            request.extend(ip.octets());
        }
    }
    request.extend(to.port().to_be_bytes());
    send(link, &request).await?;
    let [version, reply] = read(link).await?;
    if version != VERSION {
        return Err(garbage("its answer is not SOCKS5"));
    }
    verdict(reply)?;
    let [reserved, kind] = read(link).await?;
    if reserved != 0 {
        return Err(garbage("its answer is not SOCKS5"));
    }
    skip_bound_address(link, kind).await
}

/// The address that the hop uses, which is of no use here.
async fn skip_bound_address<S: AsyncRead + Unpin>(
    link: &mut S,
    kind: u8,
) -> Result<(), TunnelError> {
    const PORT_BYTES: usize = 2;
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(read::<1, _>(link).await?[0]),
        _ => return Err(garbage("its answer has an address of no known kind")),
    };
    let mut skipped = [0; 255 + PORT_BYTES];
    let skipped = skipped.get_mut(..length.saturating_add(PORT_BYTES)).unwrap_or_default();
    link.read_exact(skipped).await.map(|_| ()).map_err(|error| lost(&error))
}

/// What a reply means (RFC 1928, section 6).
fn verdict(reply: u8) -> Result<(), TunnelError> {
    let beyond = |what: &str| Err(TunnelError::BeyondUnreachable(what.into()));
    match reply {
        0 => Ok(()),
        1 => beyond("general failure"),
        2 => Err(TunnelError::Denied("not allowed by its rules".into())),
        3 => beyond("network unreachable"),
        4 => beyond("host unreachable"),
        5 => beyond("connection refused"),
        6 => beyond("TTL expired"),
        7 => Err(garbage("it does not know CONNECT")),
        8 => beyond("it does not take addresses of this family"),
        _ => Err(garbage("its reply is of no known kind")),
    }
}

fn garbage(what: &str) -> TunnelError {
    TunnelError::Protocol(what.to_owned())
}
