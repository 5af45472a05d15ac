//! A map that is cheap to copy with one entry changed: what a snapshot of many targets is made of.

use std::{
    borrow::Borrow,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

/// A change copies one of these: at 100,000 entries about 200 of them.
const SHARDS: usize = 512;

type Part<K, V> = Arc<HashTable<(K, V)>>;

/// A hash map in parts that copies share. Hashed with a key of its own, as ids and hosts come from
/// outside.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    hasher: RandomState,
    parts: Box<[Part<K, V>]>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { hasher: RandomState::new(), parts: vec![empty; SHARDS].into(), len: 0 }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        self.part(hash)?.find(hash, |(known, _)| known.borrow() == key).map(|(_, value)| value)
    }

    /// Sets an entry and gives what was there.
    pub(super) fn set(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let hasher = &self.hasher;
        let part = Arc::make_mut(self.parts.get_mut(at(hash))?);
        if let Some((_, known)) = part.find_mut(hash, |(known, _)| *known == key) {
            return Some(std::mem::replace(known, value));
        }
        part.insert_unique(hash, (key, value), |(key, _)| hasher.hash_one(key));
        self.len = self.len.saturating_add(1);
        None
    }

    /// Takes an entry out.
    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        self.part(hash)?.find(hash, |(known, _)| known.borrow() == key)?;
        let part = Arc::make_mut(self.parts.get_mut(at(hash))?);
        let entry = part.find_entry(hash, |(known, _)| known.borrow() == key).ok()?;
        self.len = self.len.saturating_sub(1);
        Some(entry.remove().0.1)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.iter()).map(|(_, value)| value)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn part(&self, hash: u64) -> Option<&HashTable<(K, V)>> {
        self.parts.get(at(hash)).map(|part| &**part)
    }
}

/// The part of a hash. The table itself looks at the lowest and the seven highest bits.
fn at(hash: u64) -> usize {
    usize::try_from((hash >> 32) & 0x1ff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any sequence of changes leaves what a plain map would hold, and earlier copies as they were.
        #[test]
        fn it_is_a_map_and_copies_do_not_change(
            changes in prop::collection::vec((0_u16..2000, prop::option::of(any::<u8>())), 0..300)
        ) {
            let (mut shards, mut plain) = (Shards::<u16, u8>::default(), HashMap::new());
            let mut copies = Vec::new();
            for (key, value) in changes {
                let (was, was_plain) = match value {
                    Some(value) => (shards.set(key, value), plain.insert(key, value)),
                    None => (shards.remove(&key), plain.remove(&key)),
                };
                prop_assert_eq!(was, was_plain);
                copies.push((shards.clone(), plain.clone()));
            }
            for (shards, plain) in copies {
                prop_assert_eq!(shards.len(), plain.len());
                prop_assert_eq!(shards.values().count(), plain.len());
                for (key, value) in &plain {
                    prop_assert_eq!(shards.get(key), Some(value));
                }
            }
        }
    }
}
