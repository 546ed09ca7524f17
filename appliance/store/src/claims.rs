//! Which block ranges of which objects are being changed, and who waits for them.
//!
//! Two changes whose ranges overlap never run side by side; a waiting change is not overtaken by a later one that overlaps
//! it. Bounded by the requests the store takes.

use std::collections::{BTreeMap, VecDeque};

use sheen_types::Fid;

/// Blocks `first..end` of an object, claimed by operation `operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) operation: u32,
}

impl Claim {
    const fn overlaps(&self, other: &Self) -> bool {
        self.first < other.end && other.first < self.end
    }
}

#[derive(Debug, Default)]
struct ObjectClaims {
    active: Vec<Claim>,
    waiting: VecDeque<Claim>,
}

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    objects: BTreeMap<Fid, ObjectClaims>,
    spares: Vec<ObjectClaims>,
}

impl Claims {
    /// Takes the claim (true), or queues it.
    pub(crate) fn take(&mut self, object: Fid, claim: Claim) -> bool {
        let claims = match self.objects.entry(object) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(self.spares.pop().unwrap_or_default())
            }
        };
        let blocked =
            claims.active.iter().chain(&claims.waiting).any(|other| other.overlaps(&claim));
        if blocked {
            claims.waiting.push_back(claim);
        } else {
            claims.active.push(claim);
        }
        !blocked
    }

    /// Ends the active claim of `operation`; pushes the operations whose turn it is now.
    ///
    /// # Panics
    /// When it has none.
    pub(crate) fn release(&mut self, object: Fid, operation: u32, granted: &mut Vec<u32>) {
        let claims = self.objects.get_mut(&object).expect("an active claim has its object");
        let at = claims.active.iter().position(|claim| claim.operation == operation);
        claims.active.swap_remove(at.expect("only an active claim is released"));
        let mut at = 0;
        while at < claims.waiting.len() {
            let claim = claims.waiting[at];
            let earlier = claims.waiting.iter().take(at);
            if claims.active.iter().chain(earlier).any(|other| other.overlaps(&claim)) {
                at += 1;
            } else {
                claims.waiting.remove(at);
                claims.active.push(claim);
                granted.push(claim.operation);
            }
        }
        if claims.active.is_empty() {
            assert!(claims.waiting.is_empty(), "who waits, waits for someone");
            if let Some(spare) = self.objects.remove(&object) {
                self.spares.push(spare);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn overlapping_changes_take_turns_and_nobody_is_overtaken() {
        let mut claims = Claims::default();
        let object = Fid::new(1, 1);
        let claim = |first, end, operation| Claim { first, end, operation };
        assert!(claims.take(object, claim(0, 4, 1)));
        assert!(claims.take(object, claim(4, 8, 2)), "apart from the first");
        assert!(!claims.take(object, claim(2, 6, 3)));
        assert!(!claims.take(object, claim(5, 9, 4)), "would overtake the third");
        assert!(claims.take(Fid::new(1, 2), claim(0, 4, 5)), "another object");
        let mut granted = Vec::new();
        claims.release(object, 2, &mut granted);
        assert!(granted.is_empty());
        claims.release(object, 1, &mut granted);
        assert_eq!(granted, [3]);
        claims.release(object, 3, &mut granted);
        assert_eq!(granted, [3, 4]);
        claims.release(object, 4, &mut granted);
        assert!(!claims.objects.contains_key(&object));
    }
}
