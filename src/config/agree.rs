//! Rules that need more than one section.

use std::{collections::BTreeSet, net::SocketAddr};

use super::Config;
use crate::{
    fields::{Problem, Problems},
    server::tls::ServerTls,
};

/// Whether others than this machine can reach a listener at this address.
pub fn is_exposed(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Notes where sections do not go together. `tunnels` are the names of all, also of those with
/// problems.
pub(super) fn agree(config: &Config, tunnels: &BTreeSet<String>, problems: &mut Problems) {
    listeners(config, problems);
    let mut problem = |key: String, message: String| problems.push(Problem { key, message });
    for (name, resolver) in &config.resolvers {
        for tunnel in resolver.tunnels.iter().filter(|name| !tunnels.contains(*name)) {
            problem(format!("resolvers.{name}.tunnel"), format!("there is no [tunnels.{tunnel}]"));
        }
    }
    // Behind a tunnel, the families of egress addresses say nothing.
    let direct = config.resolvers.iter().filter(|(_, resolver)| resolver.tunnels.is_empty());
    let direct = direct.map(|(name, one)| (format!("resolvers.{name}.servers"), &one.servers));
    let default = config.dns_servers.iter().map(|servers| ("dns.servers".to_owned(), servers));
    for (key, servers) in default.chain(direct) {
        for server in servers {
            let is_ipv4 = server.address().is_ipv4();
            let ips = &config.egress.ip;
            if !ips.is_empty() && !ips.iter().any(|ip| ip.is_ipv4() == is_ipv4) {
                problem(
                    key.clone(),
                    format!("{server} cannot be asked: egress.ip has no address of its family"),
                );
            }
        }
    }
}

fn listeners(config: &Config, problems: &mut Problems) {
    // Entries with problems were left out; that they are there is enough here.
    let tried = |prefix: &str, problems: &Problems| {
        problems.iter().any(|problem| problem.key.starts_with(prefix))
    };
    let clients = !config.clients.is_empty() || tried("clients", problems);
    let certified = config.proxy.tls.as_ref().is_some_and(ServerTls::demands_certificates)
        || tried("proxy.tls", problems);
    let open = !clients && !certified;
    let tokens = !config.admin.tokens.is_empty() || tried("admin.tokens", problems);
    let mut problem = |key: &str, message: String| {
        problems.push(Problem { key: key.into(), message });
    };
    for address in config.proxy.listen.iter().filter(|address| is_exposed(address) && open) {
        problem(
            "proxy.listen",
            format!(
                "{address} is not loopback, and without clients whoever reaches it may use every \
                 target; add [[clients]] with a token or certificate_names, set \
                 proxy.tls.client_ca_file, or listen on 127.0.0.1"
            ),
        );
    }
    for address in config.admin.listen.iter().filter(|address| is_exposed(address) && !tokens) {
        problem(
            "admin.listen",
            format!(
                "{address} is not loopback, and without tokens whoever reaches it may change \
                 targets; add admin.tokens, or listen on 127.0.0.1"
            ),
        );
    }
    let proxy = config.proxy.listen.iter().map(|address| ("proxy.listen", address));
    let admin = config.admin.listen.iter().map(|address| ("admin.listen", address));
    let connectors = config.connectors.listen.iter().map(|address| ("connectors.listen", address));
    let all: Vec<_> = proxy.chain(admin).chain(connectors).collect();
    for (index, (key, address)) in all.iter().enumerate() {
        // Listeners share their ports with a successor, so the system would not refuse this.
        if let Some((other_key, other)) =
            all.iter().take(index).find(|(_, other)| overlap(address, other))
        {
            problem(key, format!("{address} is taken by {other} of {other_key}"));
        }
    }
}

/// Whether two listeners would get each other's connections.
fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || wildcard)
}
