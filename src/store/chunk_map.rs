//! A sorted map in chunks that versions share, for directories that are too large for a list.
//!
//! A clone copies the list of chunks (one pointer for about fifty entries) and no entry. A change copies only the chunk
//! that it touches, and only while another version holds that chunk. Chunks have little spare room, and small
//! neighbours are merged. After removals, a map therefore takes no more memory than if it had always been that small.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Ordering;

use crate::limits::CHUNK_ENTRIES;

/// A persistent sorted map. No chunk is empty. Each chunk's first key is next to its pointer, so that the search for a
/// chunk reads no chunk. In a large store each read would miss the cache.
#[derive(Clone, Debug)]
pub(super) struct ChunkMap<K, V> {
    chunks: Vec<(K, Chunk<K, V>)>,
    len: usize,
}

/// The position of an entry; valid while the map does not change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    chunk: usize,
    at: usize,
}

impl Place {
    /// Returns the list entry at this position, and moves past it.
    pub(super) fn next_of<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let entry = list.get(self.at)?;
        self.at = self.at.saturating_add(1);
        Some(entry)
    }

    /// Returns the next position, after an entry in a chunk of `len` entries.
    const fn behind(self, len: usize) -> Self {
        let at = self.at.saturating_add(1);
        if at < len { Self { at, ..self } } else { Self { chunk: self.chunk.saturating_add(1), at: 0 } }
    }
}

/// Some of the entries, in order.
type Chunk<K, V> = Rc<Vec<(K, V)>>;

/// Entries for which a chunk gets room at a time.
pub(super) const CHUNK_STEP: usize = 8;

/// Distance of the entries that a search compares first: about the square root of a chunk's maximum.
const STRIDE: usize = 8;

const _: () = assert!(CHUNK_ENTRIES.is_multiple_of(CHUNK_STEP), "a full chunk has no unusable room");

/// Makes room for `step` more entries if the list is full. Doubling would leave a third of all list memory unused.
pub(super) fn make_room<T>(list: &mut Vec<T>, step: usize) {
    if list.len() == list.capacity() {
        list.reserve_exact(step.max(1));
    }
}

/// Releases the spare room of a list after removals, if more than half of it is empty.
pub(super) fn take_room<T>(list: &mut Vec<T>) {
    if list.len() <= list.capacity() / 2 {
        list.shrink_to_fit();
    }
}

/// Finds `key` in a chunk, or the place where it belongs. Compares each [`STRIDE`]th entry first, then the entries
/// between two of them. In a large store a chunk is not in the cache. These reads do not depend on each other, unlike
/// those of a binary search.
fn search<K: Borrow<Q>, Q: Ord + ?Sized, V>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    if entries.last().is_some_and(|(last, _)| last.borrow() < key) {
        return Err(entries.len());
    }
    let is_below = |at: &usize| entries.get(*at).is_some_and(|(k, _)| k.borrow() <= key);
    let strides = (0..entries.len()).step_by(STRIDE).skip(1).take_while(is_below).count();
    let begin = strides.saturating_mul(STRIDE);
    for (at, (k, _)) in entries.iter().enumerate().skip(begin) {
        match k.borrow().cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(at),
            Ordering::Greater => return Err(at),
        }
    }
    Err(entries.len())
}

impl<K: Ord + Clone, V: Clone> ChunkMap<K, V> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the index of the chunk that can hold `key`.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let Some(((last, _), others)) = self.chunks.split_last() else { return 0 };
        if last.borrow() <= key {
            // Children are often created, and restored, in the order of their names.
            return others.len();
        }
        others.partition_point(|(first, _)| first.borrow() <= key).saturating_sub(1)
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (_, chunk) = self.chunks.get(self.chunk_of(key))?;
        let at = search(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at_chunk = self.chunk_of(key);
        let (_, chunk) = self.chunks.get_mut(at_chunk)?;
        let at = search(chunk, key).ok()?;
        Rc::make_mut(chunk).get_mut(at).map(|(_, value)| value)
    }

    /// Adds an entry whose key is not there yet; otherwise replaces the value. A chunk without room gets room for
    /// `step` entries. `step` is [`CHUNK_STEP`], or the whole chunk for one of many entries that mostly come in order.
    /// [`ChunkMap::trim`] releases the unused room.
    pub(super) fn insert_with_room(&mut self, key: K, value: V, step: usize) {
        let begin = |entry| {
            let mut entries = Vec::with_capacity(step);
            entries.push(entry);
            entries
        };
        let at_chunk = self.chunk_of(&key);
        let Some((first, chunk)) = self.chunks.get_mut(at_chunk) else {
            self.chunks.push((key.clone(), Rc::new(begin((key, value)))));
            self.len = 1;
            return;
        };
        let entries = Rc::make_mut(chunk);
        let at = match search(entries, &key) {
            Ok(at) => {
                if let Some(entry) = entries.get_mut(at) {
                    entry.1 = value;
                }
                return;
            }
            Err(at) => at,
        };
        self.len = self.len.saturating_add(1);
        if at == 0 {
            first.clone_from(&key);
        }
        if entries.len() < CHUNK_ENTRIES {
            let left = CHUNK_ENTRIES.saturating_sub(entries.len());
            make_room(entries, step.min(left));
            entries.insert(at, (key, value));
            return;
        }
        // Keys that arrive in order fill chunks from the left: these chunks stay full.
        let upper = if at == entries.len() {
            begin((key, value))
        } else {
            let mut upper = entries.split_off(CHUNK_ENTRIES / 2);
            take_room(entries);
            let (half, at) = match at.checked_sub(entries.len()) {
                Some(at) => (&mut upper, at),
                None => (entries, at),
            };
            make_room(half, CHUNK_STEP);
            half.insert(at, (key, value));
            upper
        };
        let Some((first, _)) = upper.first() else { return };
        let upper = (first.clone(), Rc::new(upper));
        let step = self.chunks.len() / 8;
        make_room(&mut self.chunks, step);
        let behind = at_chunk.saturating_add(1).min(self.chunks.len());
        self.chunks.insert(behind, upper);
    }

    /// Releases the room that a chunk reserved in advance.
    pub(super) fn trim(&mut self) {
        if let Some(entries) = self.chunks.last_mut().and_then(|(_, chunk)| Rc::get_mut(chunk)) {
            entries.shrink_to(entries.len().next_multiple_of(CHUNK_STEP));
        }
    }

    /// Returns whether `key` sorts after all keys.
    pub(super) fn is_behind_all<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let last = self.chunks.last().and_then(|(_, chunk)| chunk.last());
        last.is_none_or(|(last, _)| last.borrow() < key)
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at_chunk = self.chunk_of(key);
        let (first, chunk) = self.chunks.get_mut(at_chunk)?;
        let at = search(chunk, key).ok()?;
        let entries = Rc::make_mut(chunk);
        let (_, value) = entries.remove(at);
        take_room(entries);
        if let Some((now_first, _)) = entries.first().filter(|_| at == 0) {
            first.clone_from(now_first);
        }
        let left = entries.len();
        self.len = self.len.saturating_sub(1);
        if left == 0 {
            self.chunks.remove(at_chunk);
            take_room(&mut self.chunks);
        } else if left < CHUNK_ENTRIES / 4 {
            self.merge(at_chunk.saturating_sub(1));
        }
        Some(value)
    }

    /// Merges a chunk and the next one, if both together leave room to grow.
    fn merge(&mut self, at_chunk: usize) {
        let next = at_chunk.saturating_add(1);
        let len = |at: usize| self.chunks.get(at).map(|(_, chunk)| chunk.len());
        let (Some(lower), Some(upper)) = (len(at_chunk), len(next)) else { return };
        if lower.saturating_add(upper) > CHUNK_ENTRIES / 2 {
            return;
        }
        let (_, upper) = self.chunks.remove(next);
        if let Some((_, chunk)) = self.chunks.get_mut(at_chunk) {
            let chunk = Rc::make_mut(chunk);
            chunk.reserve_exact(upper.len());
            match Rc::try_unwrap(upper) {
                Ok(upper) => chunk.extend(upper),
                Err(shared) => chunk.extend(shared.iter().cloned()),
            }
        }
        take_room(&mut self.chunks);
    }

    /// Returns the entry at `place`, and moves `place` past it.
    pub(super) fn next(&self, place: &mut Place) -> Option<&(K, V)> {
        let (_, chunk) = self.chunks.get(place.chunk)?;
        let entry = chunk.get(place.at)?;
        *place = place.behind(chunk.len());
        Some(entry)
    }

    /// Returns the value of the entry at `place` and moves `place` past it, if `is_it` accepts the value.
    pub(super) fn next_if(&self, place: &mut Place, is_it: impl FnOnce(&V) -> bool) -> Option<&V> {
        let (_, chunk) = self.chunks.get(place.chunk)?;
        let (_, value) = chunk.get(place.at)?;
        if !is_it(value) {
            return None;
        }
        *place = place.behind(chunk.len());
        Some(value)
    }

    /// Returns the value of `key` as [`ChunkMap::get`] does, and moves `place` past the entry. Needs no search if the
    /// entry is the one at `place`.
    pub(super) fn get_at<Q: Ord + ?Sized>(&self, key: &Q, place: &mut Place) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let is_here = |chunk: &Chunk<K, V>| chunk.get(place.at).is_some_and(|(k, _)| k.borrow() == key);
        if !self.chunks.get(place.chunk).is_some_and(|(_, chunk)| is_here(chunk)) {
            let at_chunk = self.chunk_of(key);
            let (_, chunk) = self.chunks.get(at_chunk)?;
            *place = Place { chunk: at_chunk, at: search(chunk, key).ok()? };
        }
        self.next(place).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.chunks.iter().flat_map(|(_, chunk)| chunk.iter())
    }

    /// Removes and returns the last entry if no other version holds it; drops entries that other versions hold.
    pub(super) fn pop_unshared(&mut self) -> Option<(K, V)> {
        while let Some((_, chunk)) = self.chunks.last_mut() {
            if let Some(entry) = Rc::get_mut(chunk).and_then(Vec::pop) {
                self.len = self.len.saturating_sub(1);
                return Some(entry);
            }
            let shared = self.chunks.pop().map_or(0, |(_, chunk)| chunk.len());
            self.len = self.len.saturating_sub(shared);
        }
        None
    }

    /// Returns the first value, if no other version holds it.
    pub(super) fn first_unshared(&mut self) -> Option<&mut V> {
        Rc::get_mut(&mut self.chunks.first_mut()?.1)?.first_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn it_agrees_with_an_ordinary_map_and_older_versions_stay() {
        let mut seed = 1_u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        let (mut map, mut model) = (ChunkMap::new(), BTreeMap::new());
        let mut versions = Vec::new();
        for step in 0..20_000 {
            let key = random(700);
            if random(5) < 3 {
                map.insert_with_room(key, step, CHUNK_STEP);
                model.insert(key, step);
            } else {
                assert_eq!(map.remove(&key), model.remove(&key));
            }
            if step % 2500 == 0 {
                versions.push((map.clone(), model.clone()));
            }
        }
        versions.push((map, model));
        for (map, model) in &versions {
            assert_eq!(map.len(), model.len());
            assert!(map.chunks.iter().all(|(first, chunk)| chunk.first().is_some_and(|(key, _)| key == first)));
            assert!(map.iter().map(|(k, v)| (*k, *v)).eq(model.iter().map(|(k, v)| (*k, *v))));
            for key in 0..700 {
                assert_eq!(map.get(&key), model.get(&key));
                let mut place = Place::default();
                assert_eq!(map.get_at(&key, &mut place), model.get(&key));
                if let Some((next, value)) = model.range(key + 1..).next().filter(|_| model.contains_key(&key)) {
                    let mut behind = place;
                    assert_eq!(map.next(&mut behind), Some(&(*next, *value)));
                    assert_eq!(map.get_at(next, &mut place), Some(value));
                }
            }
        }
    }

    #[test]
    fn appended_entries_are_as_if_inserted_and_take_no_more_after_trimming() {
        for count in [1, 7, 8, 9, 63, 64, 65, 100, 1000] {
            for swap in [0, 1, 13] {
                let keys = (0..count).map(|key: i32| key ^ swap);
                let (mut appended, mut inserted) = (ChunkMap::new(), ChunkMap::new());
                for key in keys {
                    appended.insert_with_room(key, key, CHUNK_ENTRIES);
                    inserted.insert_with_room(key, key, CHUNK_STEP);
                }
                appended.trim();
                assert!(appended.iter().eq(inserted.iter()));
                assert_eq!(appended.len(), inserted.len());
                assert!(
                    appended.chunks.iter().all(|(first, chunk)| chunk.first().is_some_and(|(key, _)| key == first))
                );
                assert!(appended.is_behind_all(&2000) && !appended.is_behind_all(&0));
                let room = |map: &ChunkMap<i32, i32>| map.chunks.iter().map(|(_, c)| c.capacity()).sum::<usize>();
                assert!(
                    swap > 0 || room(&appended) <= room(&inserted),
                    "{count}: {} {}",
                    room(&appended),
                    room(&inserted)
                );
            }
        }
    }

    #[test]
    fn popping_leaves_what_another_version_holds() {
        let mut map = ChunkMap::new();
        for key in 0..200 {
            map.insert_with_room(key, key, CHUNK_STEP);
        }
        let other = map.clone();
        assert_eq!(map.pop_unshared(), None);
        assert_eq!(other.iter().count(), 200);
        let mut last = other;
        assert_eq!(last.pop_unshared(), Some((199, 199)));
    }
}
