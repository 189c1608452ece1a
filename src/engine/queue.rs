//! A queue in short pieces. One long piece would double when it is full, and for the moment of the move take three times what is
//! in it: memory that nobody asked for, in one block that may not be there.

use alloc::collections::VecDeque;

/// Entries of a piece: a few KiB.
const PIECE: usize = 64;

/// First in, first out. A queue that stays short is one piece, which keeps its room.
#[derive(Debug)]
pub(super) struct Queue<T> {
    /// Not empty unless all is.
    first: VecDeque<T>,
    /// None of them empty.
    rest: VecDeque<VecDeque<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { first: VecDeque::new(), rest: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.rest.iter().fold(self.first.len(), |sum, piece| sum.saturating_add(piece.len()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.first.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut T> {
        self.first.front_mut()
    }

    pub(super) fn push_back(&mut self, entry: T) {
        match self.rest.back_mut().unwrap_or(&mut self.first) {
            last if last.len() < PIECE => last.push_back(entry),
            _ => self.rest.push_back([entry].into()),
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let entry = self.first.pop_front();
        self.close_up();
        entry
    }

    pub(super) fn get(&self, mut at: usize) -> Option<&T> {
        for piece in core::iter::once(&self.first).chain(&self.rest) {
            match at.checked_sub(piece.len()) {
                Some(behind) => at = behind,
                None => return piece.get(at),
            }
        }
        None
    }

    /// Takes an entry out of the middle.
    pub(super) fn remove(&mut self, mut at: usize) -> Option<T> {
        let mut removed = None;
        for piece in core::iter::once(&mut self.first).chain(&mut self.rest) {
            match at.checked_sub(piece.len()) {
                Some(behind) => at = behind,
                None => {
                    removed = piece.remove(at);
                    break;
                }
            }
        }
        self.rest.retain(|piece| !piece.is_empty());
        self.close_up();
        removed
    }

    /// Lets the next piece be the first when that is used up.
    fn close_up(&mut self) {
        if self.first.is_empty()
            && let Some(next) = self.rest.pop_front()
        {
            self.first = next;
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.first.iter().chain(self.rest.iter().flatten())
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.first.iter_mut().chain(self.rest.iter_mut().flatten())
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        let Self { first, rest } = core::mem::take(self);
        first.into_iter().chain(rest.into_iter().flatten())
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
                    let at = random(model.len());
                    assert_eq!(queue.remove(at), model.remove(at));
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
            let at = random(model.len() + 1);
            assert_eq!(queue.get(at), model.get(at));
            if step % 100 == 0 {
                assert!(queue.iter().eq(model.iter()) && queue.iter().rev().eq(model.iter().rev()));
                assert!(queue.iter_mut().map(|entry| *entry).eq(model.iter().copied()));
            }
        }
        assert!(queue.drain().eq(model));
        assert!(queue.is_empty() && queue.remove(0).is_none());
    }
}
