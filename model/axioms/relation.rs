//! Relations between the events of one execution, as rows of bits.

use std::ops::{BitAnd, BitOr, Sub};

/// A relation over at most 64 events. Row `a` has a bit for each `b` with `a → b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation(Vec<u64>);

impl Relation {
    /// Returns the relation of all pairs that `holds` accepts.
    pub fn of(events: usize, holds: impl Fn(usize, usize) -> bool) -> Self {
        assert!(events <= 64, "{events} events");
        let row = |a| (0..events).filter(|b| holds(a, *b)).fold(0, |row, b| row | 1 << b);
        Relation((0..events).map(row).collect())
    }

    /// Returns the inverse, `r⁻¹`.
    pub fn inverse(&self) -> Self {
        Relation::of(self.0.len(), |a, b| self.has(b, a))
    }

    /// Returns `r?`: the relation, or no step.
    pub fn maybe(&self) -> Self {
        Relation::of(self.0.len(), |a, b| a == b || self.has(a, b))
    }

    /// Returns `r⁺`: one or more steps.
    pub fn plus(&self) -> Self {
        let mut rows = self.0.clone();
        for middle in 0..rows.len() {
            for from in 0..rows.len() {
                if rows[from] & 1 << middle != 0 {
                    rows[from] |= rows[middle];
                }
            }
        }
        Relation(rows)
    }

    pub fn has(&self, a: usize, b: usize) -> bool {
        self.0[a] & 1 << b != 0
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|row| *row == 0)
    }

    pub fn is_irreflexive(&self) -> bool {
        (0..self.0.len()).all(|a| !self.has(a, a))
    }

    pub fn is_acyclic(&self) -> bool {
        self.plus().is_irreflexive()
    }

    fn zip(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Relation(self.0.iter().zip(&other.0).map(|(a, b)| combine(*a, *b)).collect())
    }

    fn then(&self, next: &Self) -> Self {
        let row = |row: &u64| {
            (0..next.0.len()).filter(|b| row & 1 << b != 0).fold(0, |all, b| all | next.0[b])
        };
        Relation(self.0.iter().map(row).collect())
    }
}

/// Returns the composition of relations, `a ; b ; …`.
pub fn seq<const N: usize>(parts: [&Relation; N]) -> Relation {
    let (first, rest) = parts.split_first().expect("a composition has a part");
    rest.iter().fold((*first).clone(), |all, next| all.then(next))
}

/// Returns the union of relations.
pub fn union<const N: usize>(parts: [&Relation; N]) -> Relation {
    let (first, rest) = parts.split_first().expect("a union has a part");
    rest.iter().fold((*first).clone(), |all, next| &all | next)
}

impl BitOr for &Relation {
    type Output = Relation;
    fn bitor(self, other: Self) -> Relation {
        self.zip(other, |a, b| a | b)
    }
}

impl BitAnd for &Relation {
    type Output = Relation;
    fn bitand(self, other: Self) -> Relation {
        self.zip(other, |a, b| a & b)
    }
}

impl Sub for &Relation {
    type Output = Relation;
    fn sub(self, other: Self) -> Relation {
        self.zip(other, |a, b| a & !b)
    }
}
