//! Handshakes over real sockets, with certificates right and wrong.
#![expect(clippy::disallowed_methods, reason = "the gateway's side connects to loopback here")]

mod authority;
mod certificates;
mod handshakes;
mod server;
mod settings;

use std::{path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use self::{
    authority::{Authority, Identity},
    server::{Instead, Manner, Server},
};
use super::*;
use crate::{origin::Host, target::TargetTls};

const LONG: Duration = Duration::from_secs(20);

/// A directory of files, gone with its value.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A client certificate's two files.
    fn client(&self, identity: &Identity) -> TargetTls {
        TargetTls {
            client_cert_file: Some(self.write("client.pem", &identity.chain_pem())),
            client_key_file: Some(self.write("client.key", &identity.key_pem)),
            ..TargetTls::default()
        }
    }
}

/// The roots of this authority, and no others.
fn roots(authority: &Authority) -> Roots {
    let files = Files::new();
    Roots::only(&[files.write("root.pem", &authority.pem)]).unwrap()
}

/// TLS that trusts this authority only.
fn trusting(authority: &Authority) -> ClientTls {
    ClientTls::load(&roots(authority), None).unwrap()
}

fn trusting_with(authority: &Authority, tls: &TargetTls) -> ClientTls {
    ClientTls::load(&roots(authority), Some(tls)).unwrap()
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

impl Server {
    async fn meet(
        &self,
        tls: &ClientTls,
        name: &str,
    ) -> Result<Secured<TcpStream>, HandshakeError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        tls.handshake(stream, &host(name), Alpn::Http1, LONG).await
    }

    /// Meets, and reads what is said, with which come the tickets of TLS 1.3.
    async fn greet(&self, tls: &ClientTls, name: &str) -> TlsFacts {
        let mut secured = self.meet(tls, name).await.unwrap();
        let mut said = [0; 2];
        secured.stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"ok");
        secured.facts
    }
}

/// How a handshake with this identity fails, for somebody who trusts `authority`.
async fn refused(authority: &Authority, identity: &Identity, name: &str) -> HandshakeError {
    let server = Server::start(identity, Manner::default()).await;
    server.meet(&trusting(authority), name).await.expect_err("the handshake succeeded")
}
