//! Which target owns a destination.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Ownership, Target, TargetId, shards::Shards};
use crate::{
    origin::{Authority, Host, Port, Scheme},
    reason::{Cause, Refusal},
};

/// All targets of one moment, found by id and by host and port. A copy shares what has not changed.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    by_id: Shards<TargetId, Arc<Target>>,
    by_authority: Shards<Authority, Owners>,
}

type Owners = SmallVec<[Arc<Target>; 1]>;

/// An absolute URL, as somebody looks for its owner.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// As written.
    pub scheme: Scheme,
    /// The canonical host.
    pub host: &'a Host,
    /// The port, where it was written.
    pub port: Option<Port>,
    /// The path.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a str>,
    /// The target that the client names.
    pub hint: Option<&'a TargetId>,
}

impl Registry {
    /// Indexes targets. The caller has made sure that ids are unique.
    pub fn new(targets: impl IntoIterator<Item = Target>) -> Self {
        let mut registry = Self::default();
        for target in targets {
            registry.set(Arc::new(target));
        }
        registry
    }

    /// Adds a target, or puts it in the place of the one that has its id.
    pub fn set(&mut self, target: Arc<Target>) {
        self.remove(&target.id);
        let authority = target.base.origin.authority.clone();
        let mut owners = self.by_authority.remove(&authority).unwrap_or_default();
        // The order decides between targets that differ in nothing that matters.
        let at = owners.partition_point(|other| other.id < target.id);
        owners.insert(at, Arc::clone(&target));
        self.by_authority.set(authority, owners);
        self.by_id.set(target.id.clone(), target);
    }

    /// Takes a target out, and gives it.
    pub fn remove(&mut self, id: &TargetId) -> Option<Arc<Target>> {
        let target = self.by_id.remove(id)?;
        let authority = &target.base.origin.authority;
        let mut owners = self.by_authority.remove(authority).unwrap_or_default();
        owners.retain(|other| other.id != *id);
        if !owners.is_empty() {
            self.by_authority.set(authority.clone(), owners);
        }
        Some(target)
    }

    /// The target of an id.
    pub fn get(&self, id: &str) -> Option<&Arc<Target>> {
        self.by_id.get(id)
    }

    /// All targets, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.len() == 0
    }

    /// The target that owns `authority`, for a connection whose inside the gateway does not see.
    ///
    /// `hint` is the client's own choice. Without it, targets that share the authority and differ
    /// in their network rules cannot be told apart; of those that do not differ, `preferred` says
    /// which serve this client (a target that is usable wins over one that is not).
    ///
    /// # Errors
    /// `no_target`, `target_mismatch` or `ambiguous_target`.
    pub fn owner_of(
        &self,
        authority: &Authority,
        hint: Option<&TargetId>,
        preferred: impl Fn(&Target) -> bool,
    ) -> Result<&Arc<Target>, Refusal> {
        let owners = self.owners(authority);
        if let Some(id) = hint {
            let named = owners.iter().find(|target| target.id == *id);
            return named.ok_or_else(|| self.not_the_owner(id, authority));
        }
        let mut candidates = owners.iter().filter(|target| usable(target)).peekable();
        let Some(first) = candidates.peek().copied() else {
            return owners.first().ok_or_else(|| {
                Refusal::new(Cause::NoTarget, format!("no target owns {authority}"))
            });
        };
        if candidates.clone().any(|other| other.network != first.network) {
            let detail = format!("several targets with different network rules own {authority}");
            return Err(Refusal::new(Cause::AmbiguousTarget, detail));
        }
        Ok(candidates.find(|target| preferred(target)).unwrap_or(first))
    }

    /// The target that owns a URL: scheme, host, port, and the longest base path that holds the
    /// path. `http` also finds targets that are https, as clients cannot write https in
    /// absolute-form; without a port it then means their default one.
    ///
    /// A target whose base path does not hold the path is found where no other is, so that the
    /// rules can say what is wrong.
    ///
    /// # Errors
    /// `no_target`, `target_mismatch` or `ambiguous_target`.
    pub fn owner_of_url(
        &self,
        asked: &Wanted<'_>,
        preferred: impl Fn(&Target) -> bool,
    ) -> Result<&Arc<Target>, Refusal> {
        let authority = |port| Authority { host: asked.host.clone(), port };
        let written = authority(asked.port.unwrap_or_else(|| asked.scheme.default_port()));
        let mut owners: SmallVec<[&Arc<Target>; 4]> = SmallVec::new();
        let scheme = |target: &Target| target.base.origin.scheme;
        owners.extend(self.owners(&written).iter().filter(|target| match asked.scheme {
            Scheme::Https => scheme(target) == Scheme::Https,
            Scheme::Http => asked.port.is_some() || scheme(target) == Scheme::Http,
        }));
        if asked.scheme == Scheme::Http && asked.port.is_none() {
            let upgraded = self.owners(&authority(Port::HTTPS));
            owners.extend(upgraded.iter().filter(|target| scheme(target) == Scheme::Https));
        }
        if let Some(id) = asked.hint {
            let named = owners.into_iter().find(|target| target.id == *id);
            return named.ok_or_else(|| self.not_the_owner(id, &written));
        }
        let Some(any) = owners.first().copied() else {
            return Err(Refusal::new(Cause::NoTarget, format!("no target owns {written}")));
        };
        owners.retain(|target| usable(target));
        let holds = |target: &Target| target.holds(asked.path, asked.query);
        let longest =
            owners.iter().filter(|target| holds(target)).map(|t| t.base.path().len()).max();
        let Some(longest) = longest else {
            return Ok(owners.first().copied().unwrap_or(any));
        };
        owners.retain(|target| holds(target) && target.base.path().len() == longest);
        let first = owners.first().copied().unwrap_or(any);
        if owners.iter().any(|other| other.network != first.network) {
            let detail = format!("several targets with different network rules own {written}");
            return Err(Refusal::new(Cause::AmbiguousTarget, detail));
        }
        Ok(owners.into_iter().find(|target| preferred(target)).unwrap_or(first))
    }

    /// Whether no target has a URL's host and port.
    pub fn owns_nothing_at(&self, asked: &Wanted<'_>) -> bool {
        let port = asked.port.unwrap_or_else(|| asked.scheme.default_port());
        self.owners(&Authority { host: asked.host.clone(), port }).is_empty()
    }

    fn owners(&self, authority: &Authority) -> &[Arc<Target>] {
        self.by_authority.get(authority).map_or(&[][..], |owners| owners)
    }

    fn not_the_owner(&self, id: &TargetId, authority: &Authority) -> Refusal {
        if self.by_id.get(id).is_some() {
            let detail = format!("target {id} does not own {authority}");
            Refusal::new(Cause::TargetMismatch, detail)
        } else {
            Refusal::new(Cause::NoTarget, format!("there is no target {id}"))
        }
    }
}

fn usable(target: &Target) -> bool {
    target.enabled && target.ownership == Ownership::Confirmed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::target;

    fn authority(text: &str) -> Authority {
        Authority::parse(text).unwrap()
    }

    fn owner<'a>(registry: &'a Registry, at: &str, hint: Option<&str>) -> Result<&'a str, Cause> {
        let hint = hint.map(|id| TargetId::parse(id).unwrap());
        registry
            .owner_of(&authority(at), hint.as_ref(), Target::connect_allowed)
            .map(|target| target.id.as_str())
            .map_err(|refusal| refusal.cause)
    }

    #[test]
    fn a_host_is_owned_with_its_port_and_nothing_near_it_is() {
        let registry = Registry::new([
            target("a", "https://a.example/"),
            target("b", "https://b.example:8443"),
        ]);
        assert_eq!(owner(&registry, "a.example:443", None), Ok("a"));
        assert_eq!(owner(&registry, "A.example.:443", None), Ok("a"));
        assert_eq!(owner(&registry, "b.example:8443", None), Ok("b"));
        for other in ["a.example:80", "b.example:443", "xa.example:443", "a.example.evil.com:443"] {
            assert_eq!(owner(&registry, other, None), Err(Cause::NoTarget), "{other}");
        }
    }

    #[test]
    fn the_client_chooses_between_targets_of_one_origin_where_their_network_rules_differ() {
        let mut private = target("b", "https://x.example/");
        private.network.allowlist = Box::new(["10.0.0.0/8".parse().unwrap()]);
        let registry = Registry::new([target("a", "https://x.example/"), private]);
        assert_eq!(owner(&registry, "x.example:443", None), Err(Cause::AmbiguousTarget));
        assert_eq!(owner(&registry, "x.example:443", Some("b")), Ok("b"));
        assert_eq!(owner(&registry, "x.example:443", Some("c")), Err(Cause::NoTarget));
        assert_eq!(owner(&registry, "y.example:443", Some("b")), Err(Cause::TargetMismatch));
    }

    #[test]
    fn of_targets_that_differ_only_in_path_the_one_that_takes_connect_is_used() {
        let registry = Registry::new([
            target("a", "https://x.example/jira"),
            target("b", "https://x.example/"),
        ]);
        assert_eq!(owner(&registry, "x.example:443", None), Ok("b"));
    }

    #[test]
    fn a_disabled_target_does_not_hide_an_enabled_one() {
        let mut off = target("a", "https://x.example/");
        off.enabled = false;
        let registry = Registry::new([off.clone(), target("b", "https://x.example/")]);
        assert_eq!(owner(&registry, "x.example:443", None), Ok("b"));
        assert_eq!(owner(&Registry::new([off]), "x.example:443", None), Ok("a"));
    }

    #[test]
    fn a_copy_with_a_target_changed_or_taken_out_leaves_the_original_as_it_was() {
        let before =
            Registry::new([target("a", "https://x.example/a"), target("b", "https://x.example/b")]);
        let mut after = before.clone();
        after.set(Arc::new(target("a", "https://y.example/")));
        assert_eq!(owner(&after, "y.example:443", Some("a")), Ok("a"));
        assert_eq!(owner(&after, "x.example:443", Some("a")), Err(Cause::TargetMismatch));
        assert_eq!(after.remove(&TargetId::parse("b").unwrap()).unwrap().id.as_str(), "b");
        assert_eq!(owner(&after, "x.example:443", None), Err(Cause::NoTarget));
        assert_eq!((before.len(), after.len()), (2, 1));
        assert_eq!(owner(&before, "x.example:443", Some("a")), Ok("a"));
    }
}
