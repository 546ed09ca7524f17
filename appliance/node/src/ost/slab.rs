//! A bounded table whose indices are the tokens given to devices, fabrics and stores.

/// Values by index; a freed index is used again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
    limit: usize,
}

impl<T> Slab<T> {
    /// For at most `limit` values at a time.
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), limit }
    }

    /// Values there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Keeps `value`; its token.
    ///
    /// # Panics
    /// When the table is full: callers ask [`Slab::is_full`] where that can happen.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        assert!(!self.is_full(), "a table of {} is full", self.limit);
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index] = Some(value);
                index
            }
            None => {
                self.entries.push(Some(value));
                self.entries.len() - 1
            }
        };
        index as u64
    }

    /// The value behind a token.
    ///
    /// # Panics
    /// When there is none: tokens come back exactly once, so that is a bug of ours.
    pub(crate) fn get_mut(&mut self, token: u64) -> &mut T {
        self.slot(token).as_mut().expect("tokens name what is there")
    }

    /// The value behind a token, to look at.
    ///
    /// # Panics
    /// As [`Slab::get_mut`].
    pub(crate) fn get(&self, token: u64) -> &T {
        let index = usize::try_from(token).unwrap_or(usize::MAX);
        let slot = self.entries.get(index).expect("tokens come from this table");
        slot.as_ref().expect("tokens name what is there")
    }

    /// Takes the value out.
    ///
    /// # Panics
    /// As [`Slab::get_mut`].
    pub(crate) fn remove(&mut self, token: u64) -> T {
        let value = self.slot(token).take().expect("tokens name what is there");
        self.free.push(usize::try_from(token).unwrap_or(usize::MAX));
        value
    }

    fn slot(&mut self, token: u64) -> &mut Option<T> {
        let index = usize::try_from(token).unwrap_or(usize::MAX);
        self.entries.get_mut(index).expect("tokens come from this table")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_freed_index_is_used_again_and_the_limit_holds() {
        let mut slab = Slab::new(2);
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert!(slab.is_full());
        assert_eq!(slab.remove(a), 'a');
        assert_eq!(slab.insert('c'), a);
        assert_eq!((*slab.get_mut(a), *slab.get_mut(b), slab.len()), ('c', 'b', 2));
    }

    #[test]
    #[should_panic(expected = "tokens name what is there")]
    fn a_token_given_back_twice_stops() {
        let mut slab = Slab::new(2);
        let token = slab.insert(1);
        slab.remove(token);
        slab.remove(token);
    }
}
