//! Bounded numbers of things under way, by key: requests of a target, connections of a client.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts what is under way for each key. A key that has nothing under way takes no memory.
#[derive(Debug)]
pub struct Slots<K: Eq + Hash + Clone> {
    taken: Mutex<HashMap<K, u32>>,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// Nothing under way.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(HashMap::new()) })
    }

    /// Takes one slot, unless `limit` of them are taken. Dropping the slot gives it back.
    pub fn take(self: &Arc<Self>, key: &K, limit: u32) -> Option<Slot<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(key) {
            Some(count) if *count >= limit => return None,
            Some(count) => *count = count.saturating_add(1),
            None if limit == 0 => return None,
            None => drop(taken.insert(key.clone(), 1)),
        }
        Some(Slot { slots: Arc::clone(self), key: key.clone() })
    }
}

/// One thing under way.
#[derive(Debug)]
pub struct Slot<K: Eq + Hash + Clone> {
    slots: Arc<Slots<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_by_key_and_given_back() {
        let slots = Slots::new();
        let first = slots.take(&"a", 2).unwrap();
        let second = slots.take(&"a", 2).unwrap();
        assert!(slots.take(&"a", 2).is_none());
        assert!(slots.take(&"b", 2).is_some());
        drop(first);
        assert!(slots.take(&"a", 2).is_some());
        assert!(slots.take(&"c", 0).is_none());
        drop(second);
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
