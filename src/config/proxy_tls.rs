//! Reads the proxy's listeners and their TLS.

use std::net::SocketAddr;

use super::{
    read::{listen, required},
    reference::{Base, References},
    settings::Proxy,
};
use crate::{
    client::ClientSettings,
    fields::Fields,
    server::tls::{ClientCertificates, PemFile, ServerTls},
};

pub(super) fn proxy(
    mut fields: Fields<'_>,
    clients: &[ClientSettings],
    references: &References<'_>,
    warnings: &mut Vec<String>,
) -> Proxy {
    let listen = listen(&mut fields, SocketAddr::from(([127, 0, 0, 1], 3128)));
    let tls = if fields.has("tls") {
        tls(fields.table("tls"), clients, references, warnings)
    } else {
        fields.table("tls");
        None
    };
    fields.finish();
    Proxy { listen, tls }
}

fn tls(
    mut fields: Fields<'_>,
    clients: &[ClientSettings],
    references: &References<'_>,
    warnings: &mut Vec<String>,
) -> Option<ServerTls> {
    let file = |fields: &mut Fields<'_>, key: &'static str| {
        fields.read(key, |value| references.pem_content(Base::Tagged, value))
    };
    let certificate = required(&mut fields, "cert_file", |fields| file(fields, "cert_file"));
    let key = required(&mut fields, "key_file", |fields| file(fields, "key_file"));
    let with_ca = fields.has("client_ca_file");
    let client_ca = file(&mut fields, "client_ca_file");
    let tls = match (&certificate, &key) {
        (Some(certificate), Some(key)) if client_ca.is_some() == with_ca => {
            // A client with a token need not have a certificate.
            let demanded = if clients.iter().any(|client| client.token.is_some()) {
                ClientCertificates::WhenOffered
            } else {
                ClientCertificates::Required
            };
            let roots = client_ca.as_ref().map(|(_, content)| (content.as_slice(), demanded));
            match ServerTls::new(&certificate.1, &key.1, roots) {
                Ok(tls) => {
                    let path = certificate.0.display();
                    let problem = tls.validity_problem(references.now());
                    warnings.extend(problem.map(|problem| {
                        format!("proxy.tls.cert_file: the certificate in {path} {problem}")
                    }));
                    Some(tls)
                }
                Err(fault) => {
                    let file = match fault.file() {
                        PemFile::Certificate => Some(certificate),
                        PemFile::Key => Some(key),
                        PemFile::ClientCa => client_ca.as_ref(),
                    };
                    let path = file.map(|(path, _)| path.display().to_string()).unwrap_or_default();
                    fields.problem(fault.file().key(), format!("{path}: {fault}"));
                    None
                }
            }
        }
        _ => None,
    };
    fields.finish();
    tls
}
