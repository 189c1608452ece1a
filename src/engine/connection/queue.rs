//! A queue in short pieces. One long piece would double when it is full. During the move it would need three times the
//! memory of its entries, in one block that may be unavailable.

use alloc::collections::VecDeque;

/// Entries of a piece. A piece takes a few KiB.
const PIECE: usize = 64;

/// A first-in, first-out queue. A short queue is one piece, which keeps its capacity.
#[derive(Debug)]
pub(in crate::engine) struct Queue<T> {
    /// The first piece; empty only if the queue is.
    first: VecDeque<T>,
    /// The other pieces; none is empty.
    rest: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { first: VecDeque::new(), rest: VecDeque::new(), len: 0 }
    }
}

impl<T> Queue<T> {
    pub(in crate::engine) const fn len(&self) -> usize {
        self.len
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(in crate::engine) fn front(&self) -> Option<&T> {
        self.first.front()
    }

    pub(in crate::engine) fn front_mut(&mut self) -> Option<&mut T> {
        self.first.front_mut()
    }

    pub(in crate::engine) fn push_back(&mut self, entry: T) {
        self.len = self.len.saturating_add(1);
        match self.rest.back_mut().unwrap_or(&mut self.first) {
            last if last.len() < PIECE => last.push_back(entry),
            _ => self.rest.push_back([entry].into()),
        }
    }

    /// Puts an entry before all others.
    pub(in crate::engine) fn push_front(&mut self, entry: T) {
        self.len = self.len.saturating_add(1);
        self.first.push_front(entry);
    }

    #[inline]
    pub(in crate::engine) fn pop_front(&mut self) -> Option<T> {
        let entry = self.first.pop_front();
        self.len = self.len.saturating_sub(usize::from(entry.is_some()));
        self.close_up();
        entry
    }

    /// Replaces an empty first piece by the next one.
    fn close_up(&mut self) {
        if self.first.is_empty()
            && let Some(next) = self.rest.pop_front()
        {
            self.first = next;
        }
    }

    pub(in crate::engine) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.first.iter().chain(self.rest.iter().flatten())
    }

    pub(in crate::engine) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.first.iter_mut().chain(self.rest.iter_mut().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_a_queue_in_one_piece() {
        let mut seed = 1_u32;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        let (mut queue, mut model) = (Queue::default(), VecDeque::new());
        for step in 0..20_000_usize {
            // It grows to some hundreds, shrinks to nothing, and so on.
            let grows = step / 2000 % 2 == 0;
            match random(10) {
                0 if !model.is_empty() => {
                    queue.push_front(step);
                    model.push_front(step);
                }
                choice if (choice < 7) == grows => {
                    queue.push_back(step);
                    model.push_back(step);
                }
                _ => assert_eq!(queue.pop_front(), model.pop_front()),
            }
            assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            assert_eq!(queue.front(), model.front());
            assert_eq!(queue.front_mut(), model.front_mut());
            if step % 100 == 0 {
                assert!(queue.iter().eq(model.iter()) && queue.iter().rev().eq(model.iter().rev()));
                assert!(queue.iter_mut().map(|entry| *entry).eq(model.iter().copied()));
            }
        }
        assert!(core::iter::from_fn(|| queue.pop_front()).eq(model));
        assert!(queue.is_empty());
    }
}
