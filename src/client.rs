//! Who asks: a client's token or certificate, and the targets it may use.

use std::{collections::HashMap, sync::Arc};

use base64::Engine as _;
use globset::{Glob, GlobSet, GlobSetBuilder};
use http::{HeaderMap, header::PROXY_AUTHORIZATION};

use crate::{
    reason::{Cause, Refusal},
    secret::{Fingerprint, Secret},
    target::TargetId,
};

/// Somebody who may use the proxy, as configured.
#[derive(Debug)]
pub struct ClientSettings {
    /// Its name in log lines, and the user name of Basic credentials.
    pub name: String,
    /// The token, for Basic and Bearer.
    pub token: Option<Secret>,
    /// URI or DNS subject alternative names of client certificates that are this client.
    pub certificate_names: Vec<String>,
    /// Globs on target ids.
    pub targets: Vec<String>,
}

/// Somebody who was authenticated. Only [`Clients`] makes one.
#[derive(Clone, Debug)]
pub struct Client(Arc<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    fingerprint: Option<Fingerprint>,
    targets: Allowed,
}

#[derive(Debug)]
enum Allowed {
    Every,
    Matching(GlobSet),
}

impl Client {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it may use a target (rule 1).
    pub fn may_use(&self, id: &TargetId) -> bool {
        match &self.0.targets {
            Allowed::Every => true,
            Allowed::Matching(globs) => globs.is_match(id.as_str()),
        }
    }
}

/// All clients of a configuration.
#[derive(Debug)]
pub struct Clients {
    /// Who a request without any credential is: only where no clients are configured.
    anonymous: Option<Client>,
    by_name: HashMap<String, Client>,
    by_token: HashMap<[u8; 32], Client>,
    by_certificate: HashMap<String, Client>,
}

/// The name in events of a client where none are configured.
const ANONYMOUS: &str = "anonymous";

impl Clients {
    /// Indexes clients. Without any, everybody may use every target; the caller has made sure that
    /// the listener is then on loopback, or lets nobody in without a certificate.
    ///
    /// # Errors
    /// The first glob that does not parse.
    pub fn new(settings: Vec<ClientSettings>) -> Result<Self, globset::Error> {
        let mut clients = Self {
            anonymous: None,
            by_name: HashMap::new(),
            by_token: HashMap::new(),
            by_certificate: HashMap::new(),
        };
        if settings.is_empty() {
            let known =
                Known { name: ANONYMOUS.into(), fingerprint: None, targets: Allowed::Every };
            clients.anonymous = Some(Client(Arc::new(known)));
        }
        for one in settings {
            let known = Known {
                name: one.name.clone(),
                fingerprint: one.token.as_ref().map(Secret::fingerprint),
                targets: allowed(&one.targets)?,
            };
            let client = Client(Arc::new(known));
            if let Some(fingerprint) = client.0.fingerprint {
                clients.by_token.insert(fingerprint.bytes(), client.clone());
            }
            for name in one.certificate_names {
                clients.by_certificate.insert(name, client.clone());
            }
            clients.by_name.insert(one.name, client);
        }
        Ok(clients)
    }

    /// Whether requests have to say who they come from.
    pub fn required(&self) -> bool {
        self.anonymous.is_none()
    }

    /// A client by its name, without a credential: for `explain`, which sends nothing.
    pub fn named(&self, name: &str) -> Option<&Client> {
        self.by_name.get(name).or(self.anonymous.as_ref())
    }

    /// A stand-in that may use every target: for `explain` when no client was named.
    pub fn unnamed() -> Client {
        let known = Known { name: ANONYMOUS.into(), fingerprint: None, targets: Allowed::Every };
        Client(Arc::new(known))
    }

    /// Who sends this request: by `Proxy-Authorization`, else by the names of the verified client
    /// certificate. A credential that is wrong is never made good by a certificate.
    ///
    /// # Errors
    /// `client_unauthenticated`.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate_names: &[String],
    ) -> Result<Client, Refusal> {
        if let Some(anonymous) = &self.anonymous {
            return Ok(anonymous.clone());
        }
        let refuse = |detail: &str| Refusal::new(Cause::ClientUnauthenticated, detail);
        let mut given = headers.get_all(PROXY_AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (Some(credential), None) => self
                .by_credential(credential.as_bytes())
                .ok_or_else(|| refuse("the proxy credential is not valid")),
            (Some(_), Some(_)) => Err(refuse("Proxy-Authorization is repeated")),
            (None, _) => certificate_names
                .iter()
                .find_map(|name| self.by_certificate.get(name))
                .cloned()
                .ok_or_else(|| refuse("no proxy credential was sent")),
        }
    }

    fn by_credential(&self, credential: &[u8]) -> Option<Client> {
        let at = credential.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = credential.split_at_checked(at)?;
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return self.by_bearer(rest);
        }
        if scheme.eq_ignore_ascii_case(b"basic") {
            let decoded = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
            let colon = decoded.iter().position(|byte| *byte == b':')?;
            let (name, token) = decoded.split_at_checked(colon)?;
            return self.by_basic(std::str::from_utf8(name).ok()?, token.get(1..)?);
        }
        None
    }

    /// Looking up a digest tells an attacker's clock nothing about the token behind it.
    fn by_bearer(&self, token: &[u8]) -> Option<Client> {
        let presented = Fingerprint::of(token);
        let client = self.by_token.get(&presented.bytes())?;
        (client.0.fingerprint == Some(presented)).then(|| client.clone())
    }

    fn by_basic(&self, name: &str, token: &[u8]) -> Option<Client> {
        // Hashed first, so that an unknown name costs as much as a wrong token.
        let presented = Fingerprint::of(token);
        let client = self.by_name.get(name)?;
        (client.0.fingerprint == Some(presented)).then(|| client.clone())
    }
}

fn allowed(globs: &[String]) -> Result<Allowed, globset::Error> {
    if globs.iter().any(|glob| glob == "*") {
        return Ok(Allowed::Every);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob)?);
    }
    Ok(Allowed::Matching(set.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        let client = |name: &str, token: &str, targets: &[&str]| ClientSettings {
            name: name.into(),
            token: Some(Secret::new(token.as_bytes().to_vec())),
            certificate_names: vec![format!("spiffe://test/{name}")],
            targets: targets.iter().map(|&glob| glob.to_owned()).collect(),
        };
        Clients::new(vec![client("app", "s3cret", &["*"]), client("ci", "other", &["acme-*", "x"])])
            .unwrap()
    }

    fn who(headers: &[&str], certificate: &[&str]) -> Result<String, Cause> {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(PROXY_AUTHORIZATION, value.parse().unwrap());
        }
        let names: Vec<_> = certificate.iter().map(|&name| name.to_owned()).collect();
        clients()
            .authenticate(&map, &names)
            .map(|client| client.name().to_owned())
            .map_err(|refusal| refusal.cause)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    #[test]
    fn a_client_is_known_by_basic_bearer_or_certificate() {
        assert_eq!(who(&[&basic("app:s3cret")], &[]).as_deref(), Ok("app"));
        assert_eq!(who(&["bearer other"], &[]).as_deref(), Ok("ci"));
        assert_eq!(who(&[], &["spiffe://test/ci"]).as_deref(), Ok("ci"));
    }

    #[test]
    fn everything_else_is_unauthenticated() {
        let wrong = [
            basic("app:s3cre"),
            basic("app:s3cret "),
            basic("app:"),
            basic("app"),
            basic("nobody:s3cret"),
            basic("ci:s3cret"),
            "Bearer".into(),
            "Bearer ".into(),
            "Bearer s3cre".into(),
            "Basic !!".into(),
            "s3cret".into(),
            "Digest x".into(),
        ];
        for header in &wrong {
            assert_eq!(who(&[header], &[]), Err(Cause::ClientUnauthenticated), "{header}");
        }
        assert_eq!(who(&[], &[]), Err(Cause::ClientUnauthenticated));
        assert_eq!(who(&[], &["spiffe://test/ci2"]), Err(Cause::ClientUnauthenticated));
        assert_eq!(who(&["Bearer s3cret", "Bearer other"], &[]), Err(Cause::ClientUnauthenticated));
    }

    #[test]
    fn a_wrong_token_is_not_made_good_by_a_certificate() {
        assert_eq!(
            who(&["Bearer wrong"], &["spiffe://test/ci"]),
            Err(Cause::ClientUnauthenticated)
        );
    }

    #[test]
    fn targets_are_globs_on_the_whole_id() {
        let clients = clients();
        let may = |name: &str, id: &str| {
            clients.named(name).unwrap().may_use(&TargetId::parse(id).unwrap())
        };
        assert!(may("app", "anything") && may("ci", "acme-jira") && may("ci", "x"));
        assert!(!may("ci", "xx") && !may("ci", "not-acme-jira"));
    }

    #[test]
    fn without_clients_nobody_has_to_say_who_they_are() {
        let clients = Clients::new(Vec::new()).unwrap();
        assert!(!clients.required());
        assert_eq!(clients.authenticate(&HeaderMap::new(), &[]).unwrap().name(), ANONYMOUS);
    }
}
